"""The onm benchmark: one training step of Linear n -> n and neurons over many steps, the readout the neurons' rate."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from torch import nn

import fastlif

from . import machine, modes, training
from .choose import choose
from .training import Contender, Parts, Workload

RECTANGLE = {"surrogate": fastlif.Rectangle()}
TABLE = [
    *modes.others("soft"),
    *modes.ours(with_norm=False),
    Contender("naive, rectangle", "other form", modes.plain, own=RECTANGLE),
    Contender(
        "fastlif two bits",
        "fastlif",
        lambda form: Parts(partial(fastlif.LIF, **form)),
        own=RECTANGLE,
        note="rectangle: spike bit and in-window bit",
    ),
]
USUAL = {"cpu": {"steps": [100], "n": [1024, 2048]}, "cuda": {"steps": [500], "n": [4096, 8192, 16384]}}
QUICK = {"steps": [5], "n": [64]}


@dataclass(frozen=True)
class Onm(Workload):
    """Linear n -> n and neurons with a soft reset on normal input."""

    steps: int = 500
    batch: int = 16
    n: int = 4096

    benchmark = "onm"
    reset = "soft"

    @property
    def neuron_steps(self) -> int:
        return self.steps * self.batch * self.n

    @property
    def title(self) -> str:
        amp = [f"autocast to {self.amp}"] * bool(self.amp)
        size = f"T={self.steps}, batch {self.batch}, {self.neuron_steps / 1e6:.3g} M neuron-steps"
        return ", ".join([f"Linear {self.n} -> {self.n} and neurons", size, *amp, self.device])

    def net(self, parts: Parts) -> nn.Module:
        torch.manual_seed(0)
        with torch.device(self.device):  # a large layer's weights take seconds on a CPU
            return nn.Sequential(parts.per_step(nn.Linear(self.n, self.n)), parts.neurons())

    def head(self) -> "Onm":
        """All of it: its output is spikes."""
        return replace(self)

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Input of twice the standard deviation: currents of about 1, as a threshold of 1 needs them."""
        generator = torch.Generator(self.device).manual_seed(0)
        x = 2 * torch.randn((self.steps, self.batch, self.n), generator=generator, device=self.device)
        return x, torch.randint(self.n, (self.batch,), generator=generator, device=self.device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_arguments(parser)
    parser.add_argument("--n", type=int, nargs="+", help="default 1024 2048 on a CPU, 4096 8192 16384 on a GPU")


def main(args: argparse.Namespace, command: list[str]) -> int:
    """Run, save the JSON, and make table and plot from it. Returns 1 if one of fastlif's own rows failed, else 0."""
    device = training.device_of(args)
    usual = USUAL[device] | (QUICK if args.quick else {})
    repeats = args.repeats if args.repeats is not None else (2 if args.quick else 10)
    machine.warn_if_busy()
    rows = []
    for amp, n in product(training.amps(args), args.n or usual["n"]):
        work = Onm(args.steps or usual["steps"][0], args.batch or 16, device, amp, n=n)
        contenders = choose(TABLE, args.contenders, args.without)
        rows += training.run_all(work, contenders, TABLE[0], repeats, with_peak=not args.no_peak)
        training.keep(args, command, "onm", rows)
    return training.finish(args, command, "onm", rows)


def starter(case: dict, contender: str) -> Callable[[], Callable]:
    (row,) = (c for c in TABLE if c.name == contender)
    return training.starter(Onm(**case), row)
