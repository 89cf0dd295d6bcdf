"""Networks and comparisons for the tests of checkpoint_time."""

import torch
from cases import norm_error
from torch import nn

import fastlif


def make_net(dtype=torch.float64, leak=None, **options):
    return nn.Sequential(
        fastlif.PerStep(nn.Linear(5, 6), nn.LayerNorm(6)),
        fastlif.LIF(0.8, 0.7, **options),
        fastlif.PerStep(nn.Linear(6, 6)),
        fastlif.LIF(0.9, 0.5, **options),
        fastlif.PerStep(nn.Linear(6, 4)),
        fastlif.LI(0.9, **leak or {}),
    ).to(dtype)


def make_x(*size, dtype=torch.float64):
    return torch.randn(*size, dtype=dtype, requires_grad=True)


def spiking(dtype=torch.float32, **options):
    """Layers of neurons alone: each operator does the same to a step, whatever the number of steps."""
    return nn.Sequential(*(fastlif.LIF(0.9, 0.3, **options) for _ in range(3)), fastlif.LI(0.8)).to(dtype)


def gradients(y, g, *wanted):
    return torch.autograd.grad(y, wanted, g, allow_unused=True)


def compare(net, x, steps, tolerance):
    """Against the whole run: outputs bit for bit, gradients within the tolerance (norm of the difference over norm)."""
    wanted = [x, *net.parameters()]
    whole = net(x)
    g = torch.randn_like(whole)
    y = fastlif.checkpoint_time(net, x, steps=steps)
    assert y.equal(whole) and y.dtype == whole.dtype and y.stride() == whole.stride()
    errors = [norm_error(a, b) for a, b in zip(gradients(y, g, *wanted), gradients(whole, g, *wanted), strict=True)]
    assert max(errors) <= tolerance, errors
    return errors[0]


def counted(net, x, steps=None):
    return fastlif.saved_bytes(lambda x: fastlif.checkpoint_time(net, x, steps=steps), x).total


class Custom(nn.Module):
    """Runs `body` with a layer of neurons at hand."""

    checkpoint_time_safe = True

    def __init__(self, body, layer=None):
        super().__init__()
        self.layer = fastlif.LIF(0.9, 0.3) if layer is None else layer
        self.body = body

    def forward(self, x):
        return self.body(self, x)
