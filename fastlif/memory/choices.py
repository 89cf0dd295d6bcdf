"""The ways to train a network that `fastlif.plan` chooses from, the fastest first."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from ..ops import state as formats
from .checkpoint_time import best_steps
from .time_split import classes, refusal, stateful_layers


@dataclass(frozen=True)
class Choice:
    """What is kept for backward, and how, and what that is predicted to take.

    state: "exact", "as is" (some layers of the network are compact already), or "compact" wherever that serves.
    bits: inside `fastlif.compact`. recompute: what that is to recompute, "conv" or None.
    steps: of the windows of `fastlif.checkpoint_time`; None for all steps at once.
    saved, peak: bytes kept for backward, and the most alive at once; None if it cannot run.
    rank: 0 is the fastest. reason: why it cannot run, None if it can.
    """

    state: str
    bits: bool = False
    recompute: str | None = None
    steps: int | None = None
    saved: int | None = None
    peak: int | None = None
    rank: int = 0
    reason: str | None = None

    def __str__(self) -> str:
        parts = [f"state {self.state}"]
        parts += ["spikes as bits"] if self.bits else []
        parts += [f"{self.recompute} recomputed"] if self.recompute else []
        parts += ["windows" if self.reason else f"windows of {self.steps} steps"] if self.steps is not None else []
        return ", ".join(parts)


def candidates(net: nn.Module, length: int) -> Iterator[Choice]:
    """The choices for `length` steps, those that cannot be with the reason."""
    neurons = stateful_layers(net).values()
    own = "as is" if any(layer.neuron.state == "compact" for layer in neurons) else "exact"
    states = [own, "compact"] if any(map(can_be_compact, neurons)) else [own]
    for bits in (False, True):
        yield from (Choice(state, bits) for state in states)
        if not bits and len(states) == 1:
            yield Choice("compact", reason="no layer of neurons would keep less: see state in fastlif.lif")
    yield from (Choice(state, True, "conv") for state in states)
    refused = refusals(net, length)
    if refused is not None:
        yield Choice(own, True, steps=0, reason=refused)
        return
    yield from (Choice(state, True, steps=window(net, length)) for state in states)


def can_be_compact(layer: nn.Module) -> bool:
    """Whether state="compact" would make this layer of neurons keep a byte in the place of its input."""
    stateful, norms, _ = classes()
    if not isinstance(layer, stateful) or isinstance(layer, norms):  # with batch norm the input is kept anyway
        return False
    learns = [getattr(layer, name, None) for name in ("decay_logit", "threshold")]
    flags = True, *(isinstance(p, nn.Parameter) and p.requires_grad for p in learns)
    if formats.choose(layer.neuron, *flags) != formats.Keep.INPUT:
        return False
    try:
        return formats.choose(replace(layer.neuron, state="compact"), *flags) == formats.Keep.CODE
    except ValueError:
        return False


def window(net: nn.Module, length: int) -> int:
    """The length of window that checkpoint_time takes by itself: all take the same time, and this keeps about least."""
    return best_steps(length, [layer.neuron.windows[0] for layer in stateful_layers(net).values()])


def refusals(net: nn.Module, length: int) -> str | None:
    """Why `net` cannot run in any window of time: the first part that cannot, and how many more."""
    steps = window(net, length)
    if steps >= length:
        return f"{length} {'step' if length == 1 else 'steps'} cannot be split"
    found = []
    for name, module in net.named_modules():
        reason = refusal(module, length, steps)
        if reason is not None:
            found.append(f"{name or 'the module itself'} ({type(module).__name__}): {reason}")
    return f"{found[0]} (and {len(found) - 1} more)" if len(found) > 1 else next(iter(found), None)
