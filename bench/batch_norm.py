"""The batch norm benchmark: BatchNormLIF against torch's batch norm followed by LIF, one layer of each layout."""

import argparse
import copy
import sys
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import fastlif

from . import machine
from .report import write_report
from .results import save
from .timing import alternate

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
FLIPS = 1e-4  # of the spikes: batch norm folds in another order
THEIRS, OURS = "torch's batch norm, LIF", "BatchNormLIF"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--shape", type=int, nargs=5, default=[16, 4, 64, 64, 64], help="T B C H W; default 16 x 1 M")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/batch-norm-<device>.json")


def main(args: argparse.Namespace, command: list[str]) -> int:
    """Check, time alternating, save the JSON and the table."""
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    machine.warn_if_busy()
    head = machine.describe(command) | {"benchmark": "batch_norm", "shape": args.shape, "dtype": args.dtype}
    rows = [row for layout in LAYOUTS for row in measure(args, layout, device)]
    path = args.out or Path(__file__).parent / "results" / f"batch-norm-{device}.json"
    save(path, head | {"rows": rows})
    print(write_report(path))
    return int(any(row["flips"] > FLIPS for row in rows))


def layers() -> dict[str, nn.Module]:
    """Both, with the same numbers."""
    return {THEIRS: Composed, OURS: fastlif.BatchNormLIF}


class Composed(nn.Module):
    """torch's batch norm over all steps, then the fused neurons."""

    def __init__(self, channels: int, **options):
        super().__init__()
        self.layers = nn.Sequential(fastlif.PerStep(nn.BatchNorm2d(channels)), fastlif.LIF(**options))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """y [T, B, C, H, W]."""
        return self.layers(y)


def measure(args: argparse.Namespace, layout: str, device: str) -> list[dict]:
    """A row for each contender, times in seconds."""
    steps, batch, *image = args.shape
    torch.manual_seed(0)
    y = torch.randn(steps * batch, *image, device=device, dtype=getattr(torch, args.dtype))
    y = y.to(memory_format=LAYOUTS[layout]).unflatten(0, (steps, batch)).requires_grad_()
    gs, destination = torch.randn_like(y), torch.empty_like(y)
    nets = {name: make(image[0], reset="hard").to(device) for name, make in layers().items()}
    with torch.no_grad():
        spikes = {name: copy.deepcopy(net)(y) for name, net in nets.items()}
    flips = (spikes[OURS] != spikes[THEIRS]).float().mean().item()

    def step(net):
        net(y).backward(gs)
        y.grad = None

    calls = {name: lambda net=net: step(net) for name, net in nets.items()}
    calls["copy"] = lambda: destination.copy_(y.detach())
    rounds = tqdm(range(args.repeats), desc=layout, leave=False, file=sys.stderr)
    times = alternate(calls, device, rounds, ahead=True)
    kept = {name: fastlif.saved_bytes(lambda net=net: net(y * 1)).total / y.numel() for name, net in nets.items()}
    return [
        {"contender": name, "layout": layout, "flips": flips, "kept": kept.get(name), "both": times[name]}
        for name in calls
    ]
