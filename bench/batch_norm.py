"""The batch norm benchmark: BatchNormLIF against torch's batch norm followed by neurons, SpikingJelly's or ours."""

import argparse
import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import fastlif

from . import libraries, machine, ours
from .case import Case
from .check import COMPACT, EXACT, FLIPS, Difference, compare
from .report import write_report
from .results import failure, save
from .timing import alternate

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass(frozen=True)
class Contender:
    """`make(case, channels)` is a layer [T, B, C, H, W] -> spikes; `moves(itemsize)` what it must move."""

    name: str
    group: str
    make: Callable[[Case, int], nn.Module]
    moves: Callable[[int], float | None]
    missing: Callable[[Case], str | None] = lambda case: None
    tolerance: float = EXACT
    note: str = ""


def apart(case: Case, channels: int, backend: str | None = None) -> nn.Module:
    """torch's batch norm over all steps, then neurons."""
    norm = fastlif.PerStep(nn.BatchNorm2d(channels))
    return nn.Sequential(norm, fastlif.LIF(reset=case.reset, backend=backend))


def spikingjelly(case: Case, channels: int, backend: str) -> nn.Module:
    """The same of SpikingJelly's."""
    return nn.Sequential(libraries.spikingjelly_batch_norm(channels), libraries.SpikingJelly(case, backend=backend))


def fused(case: Case, channels: int, backend: str | None = None) -> nn.Module:
    return fastlif.BatchNormLIF(channels, reset=case.reset, backend=backend)


def contenders(device: str) -> list[Contender]:
    """torch's batch norm and our neurons first."""
    rows = [
        Contender("torch's batch norm, LIF", "fastlif", apart, lambda item: 13 * item),
        Contender("BatchNormLIF", "fastlif", fused, lambda item: 8 * item),
    ]
    for backend in ("cuda", "triton") if device == "cuda" else ():
        make, missing = partial(fused, backend=backend), partial(ours.missing, backend)
        rows.append(Contender(f"BatchNormLIF {backend}", "fastlif", make, lambda item: 8 * item, missing))
    moved = {"torch": lambda item: None, "half": lambda item: 14 * item}
    for backend in libraries.SPIKINGJELLY_BACKENDS if device == "cuda" else ("torch",):
        half = backend == "half"
        rows.append(
            Contender(
                f"spikingjelly {backend}",
                "spikingjelly",
                partial(spikingjelly, backend=backend),
                moved.get(backend, lambda item: 12 * item + 8),
                partial(libraries.spikingjelly_missing, surrogate="triangle", backend=backend),
                COMPACT if half else EXACT,
                "keeps h in y's dtype: neuron_storage" if half else "",
            )
        )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--shape", type=int, nargs=5, default=[16, 4, 64, 64, 64], help="T B C H W; default 16 x 1 M")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16", "float16"), default=["float32"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/batch-norm-<device>.json")


def main(args: argparse.Namespace, command: list[str]) -> int:
    """Check, time alternating, save the JSON and the table. Returns 1 if a row of ours failed, else 0."""
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    machine.warn_if_busy()
    head, rows = machine.describe(command) | {"benchmark": "batch_norm"}, []
    path = args.out or Path(__file__).parent / "results" / f"batch-norm-{device}.json"
    for dtype, layout in itertools.product(args.dtype, LAYOUTS):
        rows += measure(args.shape, dtype, layout, device, args.repeats)
        save(path, head | {"rows": rows})
    print(write_report(path))
    return int(any(row["group"] == "fastlif" and row["status"] in ("failed", "refused") for row in rows))


def measure(shape: list[int], dtype: str, layout: str, device: str, repeats: int) -> list[dict]:
    """A row for a copy of y, and one for each contender, timed or with the reason why not."""
    steps, batch, *image = shape
    case = Case(steps, batch * math.prod(image), dtype, "hard", device)
    y = torch.randn(steps * batch, *image, device=device, generator=torch.Generator(device).manual_seed(0))
    y = y.to(case.torch_dtype, memory_format=LAYOUTS[layout]).unflatten(0, (steps, batch)).requires_grad_()
    gs, destination = torch.randn_like(y), torch.empty_like(y)
    own = {"case": case.as_dict() | {"shape": shape, "layout": layout}, "status": "ok", "note": ""}
    own["title"] = f"y of {'x'.join(map(str, shape))}, {dtype}, {layout}"
    copy = own | {"contender": "copy", "group": "copy", "moved_bytes": 2 * y.itemsize, "note": "one copy of y"}
    rows, nets, judge = [], {}, Judge(case, y, gs)
    for contender in contenders(device):
        row = own | {"contender": contender.name, "group": contender.group, "note": contender.note}
        row["moved_bytes"] = case.moved_bytes(contender.moves(y.itemsize))
        rows.append(row)
        if why := contender.missing(case):
            row |= {"status": "not available", "reason": why}
            continue
        try:
            net = contender.make(case, image[0]).to(device)
            row |= judge(step(net, y, gs), contender.tolerance)
            row["kept"] = fastlif.saved_bytes(lambda net=net: net(y * 1)).total / y.numel()
            if row["status"] == "ok":
                nets[contender.name] = net
        except Exception as error:  # a contender's fault, whatever it is, is a result to report
            row |= failure(error)
    calls = {"copy": lambda: destination.copy_(y.detach())}
    calls |= {name: partial(step, net, y, gs) for name, net in nets.items()}
    times = alternate(calls, device, tqdm(range(repeats), desc=own["title"], leave=False, file=sys.stderr), ahead=True)
    return [row | ({"both": times[row["contender"]]} if row["contender"] in times else {}) for row in (copy, *rows)]


def step(net: nn.Module, y: torch.Tensor, gs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(spikes, dL/dy); the gradients of weight and bias are taken, too."""
    spikes = net(y)
    return spikes.detach(), torch.autograd.grad(spikes, [y, *net.parameters()], gs)[0]


class Judge:
    """How far results are from float64's, and whether that is near enough: batch norm rounds in another order.

    Allowed is twice what torch's batch norm with the reference neurons is off in y's dtype, and in any case what
    `check` allows.
    """

    def __init__(self, case: Case, y: torch.Tensor, gs: torch.Tensor):
        def plain(y, gs):
            net = apart(case, y.shape[2], "reference")
            return step(net.to(y.device, y.dtype if y.dtype == torch.float64 else torch.float32), y, gs)

        self.right, self.dtype = plain(y.detach().double().requires_grad_(), gs.double()), y.dtype
        self.usual = self.off(plain(y, gs))

    def off(self, results: tuple[torch.Tensor, torch.Tensor]) -> Difference:
        return compare(*([t.flatten(1) for t in pair] for pair in (results, self.right)))

    def __call__(self, results: tuple[torch.Tensor, torch.Tensor], tolerance: float) -> dict:
        """What to enter into the contender's row."""
        found, usual = self.off(results), self.usual
        why = found.refusal(max(tolerance, 2 * usual.gradient), self.dtype, max(FLIPS, 2 * usual.flips))
        refused = {"status": "refused", "reason": why} if why else {}
        return {"flips": found.flips, "gradient_error": found.gradient} | refused
