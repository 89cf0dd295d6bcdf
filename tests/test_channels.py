"""Sums over channels and what batch norm makes of them: the extension against PyTorch, no copies in float64."""

import pytest
import torch
from cases import DTYPES

import fastlif
from fastlif.ops import channels, native

needs_extension = pytest.mark.skipif(native.missing is not None, reason="no extension")
F64 = torch.float64


def steps(shape, layout, dtype):
    """y [T, B, C, ...] with dense steps."""
    generator = torch.Generator().manual_seed(1)
    y = (torch.randn(shape, generator=generator, dtype=F64) * 1.5 + 0.4).to(dtype)
    if layout == "channels_last":
        return y.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])
    return y[::2] if layout == "sliced_time" else y


LAYOUTS = [
    ((5, 2, 3, 4, 5), "contiguous"),
    ((5, 2, 3, 4, 5), "channels_last"),
    ((6, 3, 40), "contiguous"),
    ((6, 3, 40, 7, 7), "sliced_time"),
    ((4, 2, 64, 3, 3), "channels_last"),
    ((7, 1, 1, 50), "contiguous"),
    ((3, 2, 33, 16, 16), "contiguous"),
]


def right(y):
    """[2, C]: sums and sums of squares."""
    dims = [d for d in range(y.dim()) if d != 2]
    return torch.stack([y.double().sum(dims), y.double().square().sum(dims)])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("shape", "layout"), LAYOUTS, ids=str)
@pytest.mark.parametrize("extension", (False, pytest.param(True, marks=needs_extension)))
def test_sums(shape, layout, dtype, extension, monkeypatch):
    if not extension:
        monkeypatch.setattr(channels, "adder", lambda device: None)
    y = steps(shape, layout, dtype)
    torch.testing.assert_close(channels.sums_and_squares(y).sum(0), right(y))
    totals = [y[0].clone(memory_format=torch.preserve_format), y[-1].clone(memory_format=torch.preserve_format)]
    found = channels.sums_of_neurons(totals, tuple(y.shape), tuple(y.stride())).sum(0)
    torch.testing.assert_close(found, torch.stack([right(total[None])[0] for total in totals]))


@needs_extension
@pytest.mark.parametrize("compute", (torch.float32, F64))
@pytest.mark.parametrize("parameters", ("both", "weight", "bias", "none"))
def test_formulas_have_the_same_bits(parameters, compute):
    y = steps((5, 3, 11, 4), "contiguous", torch.float32)
    sums = channels.sums_and_squares(y)
    found = torch.empty(3, 11, dtype=compute)
    torch.ops.fastlif.native_statistics(sums, 60.0, 1e-5, *found)
    total, squares = torch.ops.fastlif.channel_moments(y)
    mean, inverse, unbiased = channels.from_moments(total, squares, torch.tensor([60.0], dtype=F64), 1e-5, compute)
    assert found.equal(torch.stack([mean, inverse, unbiased]))
    weight, bias = (
        torch.randn(22, dtype=compute)[::2] if parameters in ("both", p) else None for p in ("weight", "bias")
    )
    ours, theirs = (channels.affine(weight, bias, mean, inverse, compiled) for compiled in (True, False))
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
    sums = torch.randn(1, 2, 11, dtype=F64)
    ours, theirs = (channels.gradients(sums, 60.0, inverse, ours[0], compiled) for compiled in (True, False))
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


@needs_extension
def test_statistics_in_eager_mode_and_by_the_operator():
    for values in (1, 2, 60):
        y = torch.randn(values, 1, 3)
        count = torch.tensor([float(values)], dtype=F64)
        want = channels.from_moments(*torch.ops.fastlif.channel_moments(y), count, 1e-5, torch.float32)
        assert all(a.equal(b) for a, b in zip(channels.statistics(y, 1e-5, torch.float32), want, strict=True))


@needs_extension
def test_nan_and_infinity_go_through():
    y = torch.randn(4, 2, 3)
    y[1, 0, 0], y[2, 1, 1] = torch.nan, torch.inf
    mean, inverse, _ = channels.statistics(y, 1e-5, torch.float32)
    assert mean.isnan().tolist() == [True, False, False] and mean[1] == torch.inf
    assert inverse.isnan().tolist() == [True, True, False]


def test_parts_of_a_gpus_sums():
    """Enough warps to keep it busy, none with too little to do, and all that fits where there is but little."""

    def parts(shape, inner):
        return channels.empty_parts(torch.empty(shape, device="meta"), shape[2], inner).shape

    assert parts((16, 16, 64, 64, 64), 4096) == (32, 2, 64)
    assert parts((16, 16, 64, 64, 64), 1) == (1024, 2, 64)
    assert parts((10, 32, 512, 6, 6), 36) == (4, 2, 512)
    assert parts((2, 2, 3, 4, 4), 16) == (1, 2, 3)


@pytest.mark.parametrize("extension", (False, pytest.param(True, marks=needs_extension)))
def test_no_copy_in_float64(extension, monkeypatch):
    if not extension:
        monkeypatch.setattr(channels, "adder", lambda device: None)
    y = torch.randn(16, 2, 8, 20, 20)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        channels.sums_and_squares(y)
    most = max(event.self_cpu_memory_usage for event in profile.events())
    assert most <= 2 * y[0].nbytes


def test_layers_of_no_samples_and_no_channels():
    for shape in ((0, 2, 3, 4), (3, 0, 3, 4), (3, 2, 0, 4)):
        y = torch.randn(shape, requires_grad=True)
        spikes, _ = fastlif.batch_norm_lif(y, training=True)
        spikes.sum().backward()
        assert y.grad.shape == shape
