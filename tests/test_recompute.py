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


HOOKS = {  # they give back what they got, but contiguous, and at version 0
    "save_on_cpu": lambda: torch.autograd.graph.save_on_cpu(pin_memory=True),
    "copies": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().contiguous().clone(), lambda t: t),
}


@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
def test_hooks_outside_may_change_the_layout(layout, hooks):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh())
    again = fastlif.compact(copy.deepcopy(plain), recompute="conv")
    x = inputs(layout == "channels_last").flatten(0, 1).add_(0.1)
    x = x[:1].expand_as(x) if layout == "expanded" else x

    def weighed(net, x):
        y = net(x)
        return (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()

    x = x.detach().requires_grad_()
    wanted = torch.autograd.grad(weighed(plain, x), [x, *plain.parameters()])
    with HOOKS[hooks]():
        loss = weighed(again, x)
    found = torch.autograd.grad(loss, [x, *again.parameters()])
    scale = wanted[1].norm()  # the gradient of the bias before batch norm is rounding alone
    assert all((a - b).norm() <= 1e-5 * max(b.norm(), scale) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("hooks", HOOKS)
def test_changed_input_is_found_under_hooks_outside(hooks):
    net, x = fastlif.compact(network(), recompute="conv"), inputs().add_(1).mul_(0.5)
    with HOOKS[hooks]():
        losses = [net(x).sum() for _ in range(2)]
    losses[0].backward()
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses[1].backward()


def test_where_the_input_changes_at_once_the_output_is_kept():
    class Changing(nn.Sequential):
        def forward(self, x):
            y = self[0](x)
            x.mul_(2)
            return self[1](y)

    plain = Changing(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    plain[0].weight.requires_grad_(False)  # so that nothing but recomputing would read x
    again = fastlif.compact(copy.deepcopy(plain), recompute="conv")
    x = inputs().flatten(0, 1)
    grads = [torch.autograd.grad(net(x.clone()).square().sum(), net[1].weight)[0] for net in (plain, again)]
    assert torch.equal(*grads)


def test_without_memory():
    net = fastlif.compact(nn.Sequential(PerStep(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))), recompute="conv").to("meta")
    net(inputs().to("meta")).sum().backward()
    assert net[0].module[0].weight.grad.shape == (4, 2, 3, 3)


def test_inference_may_be_compiled_and_exported():
    torch._dynamo.reset()
    net, x = fastlif.compact(nn.Sequential(PerStep(nn.Conv2d(2, 4, 3))), recompute="conv").eval(), inputs()
    with torch.no_grad():
        assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))
        assert torch.equal(torch.export.export(net, (x,)).module()(x), net(x))


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
