"""Batch norm and neurons as one operator in every order of memory: of channels, and of what hooks hand back."""

import pytest
import torch

import fastlif
from fastlif.ops import batch_norm

BACKENDS = ("reference", "cpu")


def results(net, y, hooks=None):
    """Spikes, and the gradients of y and of every parameter."""
    torch.manual_seed(1)
    y = y.detach().requires_grad_()
    if hooks is None:
        spikes = net(y)
    else:
        with hooks:
            spikes = net(y)
    wanted = [y, *(p for p in net.parameters() if p.requires_grad)]
    gs = torch.randn(spikes.shape).to(spikes.dtype)
    return [spikes.detach(), *torch.autograd.grad(spikes, wanted, gs)]


def assert_equal(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", ({}, {"learn_decay": True, "learn_threshold": True, "by_channel": True}), ids=str)
@pytest.mark.parametrize("truncate", (None, (5, 3)), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_a_channel_at_a_time(dtype, truncate, options, monkeypatch):
    """The same bits as all channels at once and as the reference, with blocks that do not divide a channel."""
    monkeypatch.setattr(batch_norm, "FEWEST", 32)  # the least that gives the same sums
    for shape in ((18, 2, 3, 32), (7, 1, 5, 2056), (6, 3, 2, 5, 8), (4, 2, 2, 4104)):
        torch.manual_seed(0)
        y = torch.randn(shape, dtype=dtype).mul(2)
        net = fastlif.BatchNormLIF(shape[2], reset="hard", truncate=truncate, backend="cpu", **options).to(dtype)
        assert batch_norm.channels_stay_in_cache(y)
        found = results(net, y)
        with monkeypatch.context() as patch:
            patch.setattr(batch_norm, "CACHE", 0)
            assert not batch_norm.channels_stay_in_cache(y)
            assert_equal(found, results(net, y))
        net.backend = "reference"
        assert_equal(found, results(net, y))


@pytest.mark.parametrize("backend", BACKENDS)
def test_stride_of_a_single_channel_means_nothing(backend):
    torch.manual_seed(0)
    cropped = torch.randn(6, 1, 1, 8, 8)[..., :4, :]
    inserted = torch.randn(6, 3, 4, 8).as_strided((6, 3, 1, 4, 8), (96, 32, 0, 8, 1))
    odd = torch.randn(6, 12).as_strided((6, 3, 1, 4), (12, 4, 5, 1))
    for y in (cropped, inserted, odd):
        nets = [fastlif.BatchNormLIF(1, backend=backend) for _ in range(2)]
        assert_equal(results(nets[0], y), results(nets[1], y.clone(memory_format=torch.contiguous_format)))
        for name, statistic in nets[0].named_buffers():
            assert torch.equal(statistic, nets[1].get_buffer(name))
        assert torch.allclose(nets[0].running_mean, 0.1 * y.mean(), atol=1e-6)


@pytest.mark.parametrize("make", (
    lambda: fastlif.LIF(reset="hard"),
    lambda: fastlif.LIF(learn_decay=True),
    lambda: fastlif.BatchNormLIF(4),
    lambda: fastlif.BatchNormLIF(4, learn_decay=True).eval(),
))  # fmt: skip
def test_hooks_may_change_strides(make):
    """As torch.autograd.graph.save_on_cpu does, which hands back contiguous tensors."""
    y = torch.randn(40, 4, 3, 5).to(memory_format=torch.channels_last).unflatten(0, (20, 2)) * 2
    plain, hooked = make(), make()
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.detach().clone(memory_format=torch.contiguous_format), lambda t: t
    )
    assert_equal(results(hooked, y, hooks), results(plain, y))


@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16), ids=str)
def test_running_statistics_keep_infinity_where_it_is(dtype, value):
    """A step that is not finite spoils no gradient that it does not in the reference."""
    y = torch.randn(4, 2, 3, 5, dtype=dtype)
    y[2, 0, 1, 1] = value
    found = []
    for backend in BACKENDS:
        net = fastlif.BatchNormLIF(3, reset="hard", detach_reset=True, surrogate="rectangle", backend=backend)
        found.append(results(net.to(torch.promote_types(dtype, torch.float32)).eval(), y))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert not found[0][1].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_of_batch_norm_needs_a_gradient(backend):
    """Only decay, threshold or v0 does: no sums, and no gradient of y."""
    torch.manual_seed(0)
    y = torch.randn(20, 2, 3, 5)
    frozen = fastlif.BatchNormLIF(3, learn_threshold=True, backend=backend).eval()
    frozen.weight.requires_grad_(False), frozen.bias.requires_grad_(False)
    plain = fastlif.BatchNormLIF(3, affine=False, learn_decay=True, backend=backend)
    for net, name in ((frozen, "threshold"), (plain, "decay_logit")):
        wanted = results(net, y)[-1]
        found = torch.autograd.grad((net(y) * make_gs(y)).sum(), net.get_parameter(name))[0]
        assert torch.allclose(found, wanted) and found.abs() > 0
    v0 = torch.randn(2, 3, 5, requires_grad=True)
    (found,) = torch.autograd.grad(fastlif.batch_norm_lif(y, v0=v0, training=True, backend=backend)[0].sum(), v0)
    assert found.abs().sum() > 0


def make_gs(y):
    torch.manual_seed(1)
    return torch.randn(y.shape)


def test_variance_of_large_numbers():
    y = torch.randn(8, 16, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e8
    ours, theirs = fastlif.BatchNormLIF(3, momentum=1.0).double(), torch.nn.BatchNorm2d(3, momentum=1.0).double()
    ours(y), theirs(y.flatten(0, 1))
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-6, atol=0)
