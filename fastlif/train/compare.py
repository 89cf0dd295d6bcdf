"""Kinds of layers side by side, on the same weights and batch: gradients, time of a step, what backward keeps."""

import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ..memory import saved_bytes
from ..nn import BatchNormLIF
from . import build, measure
from .bloctrain import BlocTrain
from .build import LAYERS
from .config import Config
from .local_bptt import LocalBPTT
from .method import autocast

PARTS = {
    "batch norm and neurons": BatchNormLIF,
    "neurons": tuple(neurons for neurons, _ in LAYERS.values()),
    "batch norm": nn.BatchNorm2d,
    "convolution": nn.Conv2d,
    "pooling": nn.AvgPool2d,
}


@dataclass
class Kept:
    """Bytes kept for the backward pass of one batch: in all, per neuron and step, and by part of the network."""

    total: int
    per_neuron_step: float
    by_part: dict[str, int]


@dataclass
class Gradients:
    """How far the gradients of two networks differ: the largest difference, alone and over the largest gradient."""

    largest_difference: float
    relative: float


def kept(config: Config, layers: str) -> Kept:
    """What autograd keeps at once of a training batch: of the whole network over all steps, or, where it is trained in
    blocks and windows, of the block that keeps most in its window."""
    net, (x, _) = begin(config, layers)
    method = build.method(config, net, config.phases[-1], 1)
    with autocast(x.device, build.precision(config)):
        if isinstance(method, (LocalBPTT, BlocTrain)):
            net, x, counted = method.kept(x)
        else:
            counted = saved_bytes(net, x)
    modules, by_part = dict(net.named_modules()), Counter()
    for name, count in counted.by_layer.items():
        part = next((part for part, kinds in PARTS.items() if isinstance(modules[name], kinds)), "other")
        by_part[part] += count
    return Kept(counted.total, counted.total / measure.neuron_steps(net, x, PARTS["neurons"]), dict(by_part))


def step_ms(config: Config, kinds: Iterable[str], repeats: int = 40, warmup: int = 5) -> dict[str, float]:
    """The median time of a training step of each of `kinds`, taken in turns so that all see the machine alike."""
    methods = {}
    for layers in kinds:
        net, (x, y) = begin(config, layers)
        methods[layers] = build.method(config, net, config.phases[-1], repeats + warmup)
    times = {layers: [] for layers in methods}
    for _ in range(repeats + warmup):
        for layers, method in methods.items():
            began = time.perf_counter()
            method.step(x, y)
            measure.synchronize(x.device)
            times[layers].append(1000 * (time.perf_counter() - began))
    return {layers: statistics.median(taken[warmup:]) for layers, taken in times.items()}


def gradients(config: Config, weights: dict[str, torch.Tensor]) -> Gradients:
    """The naive and the fused gradients on one training batch, both networks holding `weights`.

    Their state dicts have the same tensors in the same order, under other names where batch norm and neurons are one.
    """
    found = []
    for layers in LAYERS:
        net, (x, y) = begin(config, layers)
        net.load_state_dict(dict(zip(net.state_dict(), weights.values(), strict=True)))
        build.loss(config, config.sdt_epochs + 1)(net(x), y).backward()
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    theirs, ours = found
    difference = (theirs - ours).abs().max().item()
    return Gradients(difference, difference / max(theirs.abs().max().item(), torch.finfo(theirs.dtype).tiny))


def begin(config: Config, layers: str) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """The network as training begins, and its first batch at the last phase's T."""
    dataset = build.dataset(config)
    net = build.network(config, layers, dataset.shape, dataset.classes).train()
    generator = torch.Generator().manual_seed(config.seed)
    return net, next(iter(build.train_batches(config, dataset, config.steps, generator)))
