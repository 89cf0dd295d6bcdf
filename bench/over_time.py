"""Memory against the number of steps: what a small network keeps for backward as T grows, contender by contender."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from tqdm import tqdm

import fastlif

from . import modes
from .results import failure
from .training import Contender, Parts, Run, Workload

SMALL = {"batch": 2, "size": 32, "layers": (16, "pool", 32, "pool", 32)}
STEPS = (8, 16, 32, 64, 128)
QUICK = {"size": 8, "layers": (4, "pool", 6)}
COMPARED = ("naive", "fastlif LIF", "fastlif LIF, bits", "fastlif batch norm fused, bits", "fastlif recompute")


class Windows(nn.Module):
    """The network by fastlif.checkpoint_time, in windows of about the square root of T."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fastlif.checkpoint_time(self.net, x, steps=window(len(x)))


def window(steps: int) -> int:
    return round(math.sqrt(steps))


def contenders() -> list[Contender]:
    """Rows of the network benchmark and checkpoint_time, all with batch norm in evaluation mode.

    There its statistics are fixed and do not depend on how time is split, without which checkpoint_time refuses it.
    """
    known = {row.name: row for row in (*modes.others("hard"), *modes.ours(with_norm=True))}
    packed = known["fastlif LIF, bits"]
    windows = Contender(
        "fastlif checkpoint_time",
        "fastlif",
        lambda form: Parts(packed.parts(form).neurons, fastlif.PerStep),
        finish=lambda net, x: Windows(net),
        missing=modes.lacking("checkpoint_time"),
        note="borders of windows of about sqrt(T) steps, and one window",
    )

    def evaluating(row: Contender) -> Contender:
        return replace(row, finish=lambda net, x: row.finish(net.eval(), x))

    return [evaluating(row) for row in (*(known[name] for name in COMPARED), windows)]


def measure(make: Callable[..., Workload], options: dict, quick: bool) -> list[dict]:
    """A row for every T and contender: kept bytes, or why there are none. `make(**options)` is the workload."""
    rows = []
    for steps in tqdm(STEPS[:2] if quick else STEPS, desc="steps", file=sys.stderr):
        work = make(**SMALL | (QUICK if quick else {}) | options | {"steps": steps})
        for contender in contenders():
            row = {"case": work.__dict__, "title": work.title, "neuron_steps": work.neuron_steps, "steps": steps}
            row |= {"contender": contender.name, "group": contender.group, "status": "ok", "note": contender.note}
            if why := contender.missing(work):
                row |= {"status": "missing", "reason": why}
            else:
                try:
                    row["kept_bytes"] = kept_bytes(contender, work)
                except Exception as error:  # as in the other benchmarks, a result to report
                    row |= failure(error)
            rows.append(row)
    return rows


def kept_bytes(contender: Contender, work: Workload) -> int:
    """What is held for backward at the most: with windows their borders after forward, then one window too."""
    run = Run(contender, work)
    kept = run.alive_bytes()
    if isinstance(run.net, Windows):
        run.net, run.x = run.net.net, run.x[: window(work.steps)]
        kept += run.alive_bytes()
    return kept
