"""The network benchmark: one training step of VGGSNN on event-like input, convolution, batch norm and neurons."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from fastlif.models.convnet import ConvNet
from fastlif.models.vggsnn import LAYERS

from . import machine, modes, over_time, training
from .choose import choose
from .training import Parts, Workload

RATE = 0.1  # share of the input's ones
QUICK = {"steps": 3, "batch": 2, "size": 16, "layers": (4, 6, "pool", 8)}
TABLE = [*modes.others("hard"), *modes.ours(with_norm=True)]


@dataclass(frozen=True)
class Network(Workload):
    """VGGSNN, or what `layers` say, on 2 x size x size binary frames; 10 classes. The reset is hard, not detached."""

    steps: int = 10
    batch: int = 4
    size: int = 48
    channels_last: bool = False
    layers: tuple[int | str, ...] = LAYERS
    readout: bool = True

    benchmark = "network"
    reset = "hard"

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(self.layers))  # JSON has lists

    @property
    def neuron_steps(self) -> int:
        size, neurons = self.size, 0
        for layer in self.layers:
            if layer == "pool":
                size //= 2
            else:
                neurons += layer * size * size
        return neurons * self.steps * self.batch

    @property
    def title(self) -> str:
        name = "VGGSNN" if self.layers == LAYERS else "layers " + "-".join(map(str, self.layers))
        size = f"T={self.steps}, batch {self.batch}, input 2x{self.size}x{self.size}"
        options = [f"autocast to {self.amp}"] * bool(self.amp) + ["channels last"] * self.channels_last
        return ", ".join([name, size, f"{self.neuron_steps / 1e6:.3g} M neuron-steps", *options, self.device])

    def net(self, parts: Parts) -> nn.Module:
        torch.manual_seed(0)
        shape = (2, self.size, self.size)
        net = ConvNet(shape, 10, parts.neurons, self.layers, parts.per_step, parts.norm_neurons, bias=True)
        if not self.readout:
            net.readout = nn.Identity()
        return net.to(self.device, memory_format=torch.channels_last if self.channels_last else torch.preserve_format)

    def head(self) -> "Network":
        """The first two layers of neurons, which is where flips begin."""
        return replace(self, layers=self.layers[:2], readout=False)

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator(self.device).manual_seed(0)
        shape = (self.steps * self.batch, 2, self.size, self.size)
        x = (torch.rand(shape, generator=generator, device=self.device) < RATE).float()
        if self.channels_last:
            x = x.to(memory_format=torch.channels_last)
        labels = torch.randint(10, (self.batch,), generator=generator, device=self.device)
        return x.unflatten(0, (self.steps, self.batch)), labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_arguments(parser)
    parser.add_argument("--size", type=int, help="height and width of the input; default 48")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--over-time", action="store_true", help="instead: bytes kept by a small network as T grows")


def main(args: argparse.Namespace, command: list[str]) -> int:
    """Run, save the JSON, and make table and plot from it. Returns 1 if one of fastlif's own rows failed, else 0."""
    given = {name: getattr(args, name) for name in ("steps", "batch", "size", "channels_last")}
    given = {name: value for name, value in given.items() if value is not None} | {"device": training.device_of(args)}
    if args.over_time:
        rows = over_time.measure(Network, given | {"amp": training.amps(args)[0]}, args.quick)
        return training.finish(args, command, "over-time", rows)
    repeats = args.repeats if args.repeats is not None else (2 if args.quick else 10)
    machine.warn_if_busy()
    contenders, rows = choose(TABLE, args.contenders, args.without), []
    for amp in training.amps(args):
        work = Network(**(QUICK if args.quick else {}) | given | {"amp": amp})
        rows += training.run_all(work, contenders, TABLE[0], repeats, with_peak=not args.no_peak)
        training.keep(args, command, "network", rows)
    return training.finish(args, command, "network", rows)


def starter(case: dict, contender: str) -> Callable[[], Callable]:
    (row,) = (c for c in TABLE if c.name == contender)
    return training.starter(Network(**case), row)
