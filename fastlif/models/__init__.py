"""Spiking networks by name. Each takes the maker of its neuron layers: any layer [T, B, ...] -> spikes fits in."""

import inspect

from torch import nn

from ..surrogate import nearest
from .alexnet import AlexNet
from .bloc_net import BlocNet, Thresholds
from .bloc_nets import BlocResNet9, BlocResNet11, BlocSmall, BlocVGG16
from .chain import Chain
from .convnet import ConvNet
from .lenet import LeNet1, LeNet2
from .network import Network
from .resnet import ResNet19, SEWResNet34, SpikingResNet34
from .sew_resnet18 import SEWResNet18
from .snn5 import SNN5
from .vgg11 import VGG11
from .vggsnn import VGGSNN

MODELS = {
    "convnet": ConvNet,
    "snn5": SNN5,
    "vggsnn": VGGSNN,
    "resnet19": ResNet19,
    "spiking-resnet34": SpikingResNet34,
    "sew-resnet34": SEWResNet34,
    "lenet1": LeNet1,
    "lenet2": LeNet2,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "sew-resnet18": SEWResNet18,
    "bloc-resnet9": BlocResNet9,
    "bloc-resnet11": BlocResNet11,
    "bloc-vgg16": BlocVGG16,
    "bloc-small": BlocSmall,
}


def build(name: str, *args, **options) -> nn.Module:
    """The model called `name`, made from the arguments; ValueError if there is none, or it takes no such option."""
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; {nearest(name, MODELS)}")
    makers = [kind for kind in MODELS[name].__mro__ if kind.__module__.startswith(__name__) and kind is not Network]
    taken = {option for kind in makers for option in inspect.signature(kind).parameters}
    for option in options:
        if option not in taken:
            raise ValueError(f"model {name!r} takes no option {option!r}; {nearest(option, taken)}")
    return MODELS[name](*args, **options)


__all__ = [
    "MODELS",
    "SNN5",
    "VGG11",
    "VGGSNN",
    "AlexNet",
    "BlocNet",
    "BlocResNet9",
    "BlocResNet11",
    "BlocSmall",
    "BlocVGG16",
    "Chain",
    "ConvNet",
    "LeNet1",
    "LeNet2",
    "Network",
    "ResNet19",
    "SEWResNet18",
    "SEWResNet34",
    "SpikingResNet34",
    "Thresholds",
    "build",
]
