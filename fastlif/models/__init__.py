"""Spiking networks by name. Each takes the maker of its neuron layers: any layer [T, B, ...] -> spikes fits in."""

from torch import nn

from ..surrogate import nearest
from .convnet import ConvNet
from .vggsnn import VGGSNN

MODELS = {"convnet": ConvNet, "vggsnn": VGGSNN}


def build(name: str, *args, **options) -> nn.Module:
    """The model called `name`, made from the arguments; ValueError with the nearest names if there is none."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; {nearest(name, MODELS)}")
    return MODELS[name](*args, **options)


__all__ = ["MODELS", "VGGSNN", "ConvNet", "build"]
