"""The networks: their layers, their parameters, and neurons that bring batch norm with them."""

import pytest
import torch
from torch import nn

from fastlif import LIF, models
from fastlif.train.measure import neuron_steps


def test_vggsnn_is_tets():
    with torch.device("meta"):
        net = models.build("vggsnn")
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert all(c.kernel_size == (3, 3) and c.bias is not None for c in convs)
    assert sum(isinstance(m, nn.AvgPool2d) for m in net.modules()) == 4
    assert net.readout.module[1].in_features == 512 * 3 * 3
    neuron = next(m for m in net.modules() if isinstance(m, LIF)).neuron
    assert (neuron.decay, neuron.threshold, neuron.reset, neuron.fire_on_equal) == (0.5, 1.0, "hard", False)
    own = [(i, o) for i, o in zip((2, 64, 128, 256, 256, 512, 512, 512), (c.out_channels for c in convs), strict=True)]
    expected = sum(i * o * 9 + 3 * o for i, o in own) + 512 * 9 * 10 + 10
    assert sum(p.numel() for p in net.parameters()) == expected


def test_vggsnn_runs_and_counts_its_neurons():
    net = models.VGGSNN((2, 16, 16), classes=3)
    x = torch.rand(2, 1, 2, 16, 16)
    assert net(x).shape == (2, 1, 3)
    assert neuron_steps(net, x, LIF) == 2 * (192 * 256 + 512 * 64 + 1024 * 16 + 1024 * 4)


class Normed(nn.Module):
    """Batch norm and neurons as one layer, as norm_neurons makes them."""

    def __init__(self, channels):
        super().__init__()
        self.norm, self.neurons = nn.BatchNorm2d(channels), LIF()

    def forward(self, x):
        return self.neurons(self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


@pytest.mark.parametrize("bias", (False, True))
def test_neurons_with_batch_norm_take_its_place(bias):
    outputs = []
    for norm_neurons in (None, Normed):
        torch.manual_seed(0)
        net = models.ConvNet((1, 8, 8), 3, LIF, (4, "pool", 6), norm_neurons=norm_neurons, bias=bias)
        outputs.append(net(torch.rand(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2))
    assert torch.equal(*outputs)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 2
