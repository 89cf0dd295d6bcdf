"""The residual networks against others' code: SpikingJelly's, and ResNet-19 written out in functions."""

import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from cases import norm_error
from test_models_training import awake, run, with_weights_of
from torch.nn import functional as F

from fastlif import BatchNormLIF, Neuron, models
from fastlif.models.network import NEURONS
from fastlif.models.resnet import INTEGRATE
from fastlif.train import naive

SPIKINGJELLY = "spikingjelly.activation_based."


def theirs(monkeypatch, name, **options):
    """SpikingJelly's network; it asks torchvision for a function to download weights, which is not called."""
    pytest.importorskip("spikingjelly")
    stub = ModuleType("torchvision.models.utils")
    stub.load_state_dict_from_url = None
    for module in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    made = pytest.importorskip(f"{SPIKINGJELLY}model.{name}")
    kind = "SEWResNet" if name == "sew_resnet" else "SpikingResNet"
    net = getattr(made, kind)(made.BasicBlock, **options)
    pytest.importorskip(f"{SPIKINGJELLY}functional").set_step_mode(net, "m")
    return net


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", ["sew_resnet", "spiking_resnet"])
def test_resnet34_is_spikingjellys(monkeypatch, name, norm):
    """Two of the four groups' depths are cut; the 34 layers' parameters are counted in test_models."""
    node = pytest.importorskip(f"{SPIKINGJELLY}neuron").IFNode
    surrogate = pytest.importorskip(f"{SPIKINGJELLY}surrogate").ATan()
    options = {"cnf": "ADD"} if name == "sew_resnet" else {}
    net = theirs(
        monkeypatch, name, layers=[2, 2, 1, 1], num_classes=10, spiking_neuron=node, detach_reset=True,
        surrogate_function=surrogate, **options,
    ).double()  # fmt: skip
    made = models.SEWResNet34 if name == "sew_resnet" else models.SpikingResNet34
    neurons = partial(INTEGRATE, surrogate="atan")
    ours = made(
        (3, 32, 32), 10, neurons, layers=((64, 2), (128, 2), (256, 1), (512, 1)),
        norm_neurons=partial(BatchNormLIF, **neurons.keywords) if norm else None,
    ).double()  # fmt: skip
    with_weights_of(net, ours)
    x = torch.randn(2, 2, 3, 32, 32, dtype=torch.float64)
    agree(run(ours, x), run(net, x))


def agree(found, wanted):
    assert found[0].std() > 0.1
    assert norm_error(found[0], wanted[0]) < 1e-12
    for a, b in zip(found[1], wanted[1], strict=True):
        assert norm_error(a, b) < 1e-10


class ResNet19:
    """The published network, from the weights in their order: a block's 1x1 convolution behind its two 3x3 ones."""

    def __init__(self, net, groups):
        self.net, self.groups = net, groups

    def parameters(self):
        return self.net.parameters()

    def __call__(self, x):
        weights = iter(self.net.parameters())

        def normed(x, stride=1):
            kernel, weight, bias = (next(weights) for _ in range(3))
            y = F.conv2d(x.flatten(0, 1), kernel, stride=stride, padding=kernel.shape[-1] // 2)
            return F.batch_norm(y, None, None, weight, bias, training=True).unflatten(0, x.shape[:2])

        fire = partial(naive.lif, neuron=Neuron(reset="hard", fire_on_equal=False))
        x = fire(normed(x))
        for group, count in enumerate(self.groups):
            for i in range(count):
                stride = 2 if group and not i else 1
                y = normed(fire(normed(x, stride)))
                x = fire(y + (x if i else normed(x, stride)))
        x = fire(F.linear(x.mean((3, 4)), next(weights), next(weights)))
        return F.linear(x, next(weights), next(weights))


@pytest.mark.parametrize("norm", [False, True])
def test_resnet19_written_out(norm):
    norm_neurons = partial(BatchNormLIF, **NEURONS.keywords) if norm else None
    net = models.ResNet19(
        (3, 16, 16), layers=((16, 3), (32, 3), (64, 2)), norm_neurons=norm_neurons, stem=8, hidden=32
    ).double()
    x = torch.rand(3, 2, 3, 16, 16, dtype=torch.float64) * 2
    agree(run(awake(net), x), run(ResNet19(net, (3, 3, 2)), x))
