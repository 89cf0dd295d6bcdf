"""The naive contender: fastlif.train.naive, the loop over steps in plain PyTorch, and torch.compile of it."""

from collections.abc import Callable

import torch

from fastlif import Neuron, surrogate
from fastlif.train import naive


def spike_function(derivative: surrogate.Surrogate) -> Callable[[torch.Tensor], torch.Tensor]:
    """z = h - threshold -> spikes where z > 0, as snnTorch takes it."""
    neuron = Neuron(threshold=0.0, surrogate=derivative, fire_on_equal=False)
    return lambda z: naive.Fire.apply(z, neuron)


def loop(form: dict) -> Callable[[torch.Tensor], torch.Tensor]:
    """x [T, ...] -> spikes [T, ...] of the neuron `form` (options of fastlif.lif)."""
    neuron = Neuron(**form)
    return lambda x: naive.lif(x, neuron)


def compiled(form: dict) -> Callable[[torch.Tensor], torch.Tensor]:
    """torch.compile of the loop, unrolled over its steps."""
    return torch.compile(loop(form), fullgraph=True, dynamic=False)
