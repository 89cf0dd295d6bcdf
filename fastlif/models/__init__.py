"""Spiking networks by name. Each takes the maker of its neuron layers: any layer [T, B, ...] -> spikes fits in."""

from torch import nn

from ..surrogate import nearest
from .convnet import ConvNet
from .network import Network
from .resnet import ResNet19, SEWResNet34, SpikingResNet34
from .snn5 import SNN5
from .vggsnn import VGGSNN

MODELS = {
    "convnet": ConvNet,
    "snn5": SNN5,
    "vggsnn": VGGSNN,
    "resnet19": ResNet19,
    "spiking-resnet34": SpikingResNet34,
    "sew-resnet34": SEWResNet34,
}


def build(name: str, *args, **options) -> nn.Module:
    """The model called `name`, made from the arguments; ValueError with the nearest names if there is none."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; {nearest(name, MODELS)}")
    return MODELS[name](*args, **options)


__all__ = ["MODELS", "SNN5", "VGGSNN", "ConvNet", "Network", "ResNet19", "SEWResNet34", "SpikingResNet34", "build"]
