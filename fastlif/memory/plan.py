"""fastlif.plan: the fastest way to train a network within a budget of memory, found from shapes alone."""

import copy
import math
import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from .checkpoint_time import checkpoint_time
from .choices import Choice, can_be_compact, candidates
from .compact import compact
from .live import training_step

UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
UNKNOWN = (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException)


@dataclass(frozen=True)
class Plan:
    """What `fastlif.plan` found: `choices`, the fastest first, and `chosen`, the first that fits. str() is a table."""

    choices: tuple[Choice, ...]
    chosen: Choice
    input_shape: tuple[int, ...]
    budget: int | None

    def apply(self, net: nn.Module) -> nn.Module:
        """x [T, B, ...] -> net(x) as chosen: a copy of the modules that shares the parameters and buffers of `net`.

        So an optimizer over net.parameters() trains it, and `net` itself is not changed. Modes (`train`, `eval`), hooks
        and carried membranes are its own.
        """
        return set_up(net, self.chosen)

    def __str__(self) -> str:
        rows = [("state", "bits", "recompute", "window", "kept", "peak", "")]
        impossible = []
        for choice in self.choices:
            if choice.reason is not None:
                impossible.append(f"not possible: {choice}: {choice.reason}")
                continue
            mark = "does not fit" if self.budget is not None and choice.peak > self.budget else ""
            mark = "chosen" if choice == self.chosen else mark
            steps = f"{choice.steps} steps" if choice.steps else ""
            how = choice.state, "yes" if choice.bits else "", choice.recompute or "", steps
            rows.append((*how, size(choice.saved), size(choice.peak), mark))
        used = [i for i, column in enumerate(zip(*rows, strict=True)) if any(column[1:])]
        widths = {i: max(len(row[i]) for row in rows) for i in used}
        lines = ["  ".join(f"{row[i]:{'>' if i in (4, 5) else '<'}{widths[i]}}" for i in used).rstrip() for row in rows]
        lines.insert(1, "─" * max(map(len, lines)))
        limit = "no budget" if self.budget is None else f"a budget of {size(self.budget)}"
        head = f"x {list(self.input_shape)}, {limit}; x, weights and their gradients are not counted"
        return "\n".join([head, "", *lines, *([""] if impossible else []), *impossible])


def plan(
    net: nn.Module,
    input_shape: Sequence[int],
    budget: float | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Plan:
    """Predict what training `net` takes, for each choice of what is kept, and choose the fastest that fits the budget.

    The choices are the network as it is, `state="compact"` in the layers that it serves, `fastlif.compact`, with
    convolutions recomputed, and `fastlif.checkpoint_time` at its own length of window. Each is run forward and
    backward on tensors without memory, in the network's present mode (`train` or `eval`) and under autocast if called
    so: what autograd keeps (as `fastlif.saved_bytes` counts it) and the most bytes alive at once follow from shapes.
    Faster choices come first by what they do besides, none is timed; of equally fast ones that with exact gradients.

    Args:
        net: any network; it is not changed. Its forward hooks run, on tensors without memory.
        input_shape: of x, [T, B, ...].
        budget: bytes, or text like "1.5 GB" or "800 MiB", for the predicted peak: all that lives at once in forward and
            backward, the outputs and their gradients included; x, parameters, their gradients, buffers, the optimizer,
            and what operators take for themselves (workspaces of convolutions) are not. None: no limit.
        dtype: of x.

    Returns:
        A `Plan`: print it for a table; `plan.apply(net)` is the network as chosen.

    Raises:
        ValueError: nothing fits, and the message gives the smallest budget that would do; or the network itself fails.
        TypeError, ValueError: an argument is not of the kind or in the range above.
        RuntimeError: the network's forward reads values of tensors, so that shapes are not enough.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    if any(isinstance(module, torch._dynamo.OptimizedModule) for module in net.modules()):
        raise TypeError("net is compiled, and a compiler keeps what it likes: plan the module that was compiled")
    shape, limit = check_shape(input_shape), check_budget(budget)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        with FakeCopyMode(mode):
            fake = copy.deepcopy(net)
        try:
            found = tuple(
                predicted(fake, replace(choice, rank=rank), shape, dtype)
                for rank, choice in enumerate(candidates(net, shape[0]))
            )
        except UNKNOWN as error:
            raise RuntimeError(
                f"cannot plan from shapes alone: the network reads values of tensors ({error})"
            ) from error
    possible = [choice for choice in found if choice.reason is None]
    fitting = [choice for choice in possible if limit is None or choice.peak <= limit]
    if not fitting:
        least = min(possible, key=lambda choice: choice.peak)
        raise ValueError(
            f"budget {size(limit)} ({limit} bytes) is too small for every choice: "
            f"the smallest that would do is {least.peak} bytes ({size(least.peak)}), with {least}"
        )
    return Plan(found, fitting[0], shape, limit)


def set_up(net: nn.Module, choice: Choice) -> nn.Module:
    """A copy of net's modules, with its parameters and buffers, that runs as `choice` says."""
    shared = {id(t): t for t in (*net.parameters(), *net.buffers())}
    own = copy.deepcopy(net, shared)
    if choice.state == "compact":
        for layer in own.modules():
            if can_be_compact(layer):
                layer.neuron = replace(layer.neuron, state="compact")
    if choice.bits:
        own = compact(own, recompute=choice.recompute)
    return own if choice.steps is None else InWindows(own, choice.steps)


class InWindows(nn.Module):
    """checkpoint_time(module, x, steps)."""

    def __init__(self, module: nn.Module, steps: int):
        super().__init__()
        self.module, self.steps = module, steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, B, ...]."""
        return checkpoint_time(self.module, x, steps=self.steps)

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


def predicted(fake: nn.Module, choice: Choice, shape: tuple[int, ...], dtype: torch.dtype) -> Choice:
    """The choice with its bytes, or with the reason why it cannot run; ValueError if that is the network itself."""
    if choice.reason is not None:
        return choice
    device = next((t.device for t in (*fake.parameters(), *fake.buffers())), torch.device("cpu"))

    def run(length):
        for p in fake.parameters():
            p.grad = None
        return training_step(set_up(fake, choice), torch.empty((length, *shape[1:]), dtype=dtype, device=device))

    try:
        if choice.steps is None or shape[0] < 5 * choice.steps:
            saved, peak = run(shape[0])
        else:  # from three windows on, the first and the last one being special, each adds the same
            few = 3 * choice.steps + shape[0] % choice.steps
            pairs = zip(run(few), run(few + choice.steps), strict=True)
            saved, peak = (a + (b - a) * ((shape[0] - few) // choice.steps) for a, b in pairs)
    except UNKNOWN:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        if choice.rank == 0:
            raise ValueError(f"net fails on x {list(shape)} of {dtype}: {said}") from error
        return replace(choice, reason=said)
    return replace(choice, saved=saved, peak=peak)


def check_shape(sizes: Sequence[int]) -> tuple[int, ...]:
    """input_shape as a tuple."""
    whole = isinstance(sizes, Sequence) and all(
        isinstance(n, numbers.Integral) and not isinstance(n, bool) and n >= 1 for n in sizes
    )
    if not whole or not sizes:
        raise ValueError(f"input_shape must be sizes [T, B, ...] of at least 1 each, got {sizes!r}")
    return tuple(map(int, sizes))


def check_budget(budget: float | str | None) -> int | None:
    """Bytes."""
    if budget is None:
        return None
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgt]?i?)b?\s*", budget.lower())
        count = float(found[1]) * UNITS[found[2]] if found and found[2] in UNITS else 0
    elif isinstance(budget, numbers.Real) and not isinstance(budget, bool):
        count = budget
    else:
        raise TypeError(f"budget must be bytes, text like '1.5 GB', or None, got {type(budget).__name__}")
    if not 1 <= count < 2**63:
        raise ValueError(f"budget must be a number of bytes of at least 1, or text like '1.5 GB', got {budget!r}")
    return int(count)


def size(count: int) -> str:
    """Bytes for people, rounded up, so that a budget of as much will do."""
    unit, name = next((pair for pair in ((1e9, "GB"), (1e6, "MB")) if count >= pair[0]), (1e3, "kB"))
    return f"{math.ceil(count / unit * 10) / 10:.1f} {name}"
