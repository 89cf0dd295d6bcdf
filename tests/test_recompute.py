"""compact(net, recompute="conv"): convolutions made again in backward, to the same gradients, from what is kept."""

import copy

import pytest
import torch
from torch import nn

import fastlif
from fastlif import BatchNormLIF, PerStep


def network(norm=True):
    torch.manual_seed(0)
    neurons = (lambda c: BatchNormLIF(c, reset="hard")) if norm else (lambda c: fastlif.LIF(reset="hard"))
    return nn.Sequential(
        PerStep(nn.Conv2d(2, 8, 3, padding=1)), neurons(8), PerStep(nn.AvgPool2d(2)),
        PerStep(nn.Conv2d(8, 16, 3, padding=1, bias=False)), neurons(16), PerStep(nn.Conv2d(16, 8, 3)), neurons(8),
        PerStep(nn.Flatten(), nn.Linear(8 * 4, 5)),
    )  # fmt: skip


def inputs(channels_last=False):
    x = torch.randn(6, 3, 2, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5
    if channels_last:
        x = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (6, 3))
    return x


def gradients(net, x):
    out = net(x)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), list(net.parameters()))]


@pytest.mark.parametrize("norm", [True, False], ids=["batch norm", "lif"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_same_gradients(norm, channels_last):
    plain, x = network(norm), inputs(channels_last)
    again = fastlif.compact(copy.deepcopy(plain), recompute="conv")
    for a, b in zip(gradients(plain, x), gradients(again, x), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(plain.buffers(), again.buffers(), strict=True):
        assert torch.equal(a, b)  # batch norm's statistics have been updated once


def test_under_autocast():
    plain, x = network(), inputs()
    again = fastlif.compact(copy.deepcopy(plain), recompute="conv")
    with torch.autocast("cpu", torch.bfloat16):
        found = [gradients(net, x) for net in (plain, again)]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_keeps_bits_alone():
    x = inputs()
    neurons = 3 * (8 * 64 + 16 * 16 + 8 * 4) * 6
    plain, again = network(), fastlif.compact(network(), recompute="conv")
    assert fastlif.saved_bytes(plain, x).total > 4 * neurons
    pooled = 6 * 3 * 8 * 16  # a byte each
    rest = 6 * 3 * 32 // 8 + 6 * 3 * 5 * 4 + 4096
    assert fastlif.saved_bytes(again, x).total < neurons / 8 + pooled + rest


def test_random_numbers_are_unharmed():
    torch.manual_seed(0)
    net = fastlif.compact(nn.Sequential(network(), nn.Dropout()), recompute="conv").train()
    loss = net(inputs()).sum()
    state = torch.get_rng_state()
    loss.backward()
    assert torch.equal(state, torch.get_rng_state())


def test_changed_weight_is_found():
    net = fastlif.compact(network(), recompute="conv")
    loss = net(inputs()).sum()
    with torch.no_grad():
        net[3].module.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_changed_output_is_kept():
    class Changed(nn.Module):
        def forward(self, y):
            return y.relu_()

    chain = [PerStep(nn.Conv2d(2, 4, 3), Changed(), nn.BatchNorm2d(4)), fastlif.LIF()]
    torch.manual_seed(0)
    plain = nn.Sequential(*chain)
    again = fastlif.compact(copy.deepcopy(plain), recompute="conv")
    for a, b in zip(gradients(plain, inputs()), gradients(again, inputs()), strict=True):
        assert torch.equal(a, b)


def test_inside_checkpoint():
    plain, x = network(), inputs().requires_grad_()
    again = fastlif.compact(copy.deepcopy(plain), recompute="conv")
    for reentrant in (True, False):
        expected = torch.autograd.grad(plain(x).sum(), x)[0]
        found = torch.utils.checkpoint.checkpoint(again, x, use_reentrant=reentrant)
        found.sum().backward()
        assert torch.equal(x.grad, expected)
        x.grad = None


def test_bad_input():
    with pytest.raises(ValueError, match="recompute must be None or 'conv'"):
        fastlif.compact(network(), recompute="all")
    torch._dynamo.reset()
    with pytest.raises(Exception, match="cannot be compiled"):
        torch.compile(fastlif.compact(network(), recompute="conv"), backend="eager", fullgraph=True)(inputs())
