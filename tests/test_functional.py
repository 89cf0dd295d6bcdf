"""fastlif.lif: the contract of shapes, strides and dtypes, half precision, and windows of one run."""

import numpy as np
import pytest
import torch
from cases import LAYOUTS, RESETS, Case, make_x, norm_error
from naive import naive_lif

import fastlif

HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, *HALVES))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_strides_dtypes(layout, dtype):
    _, x = make_x(Case(shape=(5, 2, 3, 4, 6), dtype=dtype, layout=layout))
    spikes, v = fastlif.lif(x)
    (gx,) = torch.autograd.grad(spikes.sum(), x)
    assert spikes.shape == gx.shape == x.shape and v.shape == x.shape[1:]
    assert spikes.dtype == gx.dtype == dtype
    assert v.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    dense = layout not in ("sliced_space", "batch_first")
    assert spikes.stride()[1:] == (x if dense else x.contiguous()).stride()[1:] == v.stride()
    assert spikes.stride(0) == v.numel()
    assert set(spikes.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("layout", ("channels_last", "transposed", "expanded", "sliced_time"))
def test_dense_steps_are_not_copied(layout):
    """What is kept of x is the very storage it came in."""
    leaf, x = make_x(Case(shape=(5, 2, 3, 4, 6), layout=layout))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fastlif.lif(x)
    assert leaf.untyped_storage().data_ptr() in {t.untyped_storage().data_ptr() for t in kept}


@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "transposed"))
def test_v0_and_parameters_of_any_strides(layout):
    _, x = make_x(Case(shape=(5, 2, 3, 4, 6), layout=layout))
    v0s = (
        torch.randn(6, 4, 3, 2).permute(3, 2, 1, 0),
        torch.randn(3, 1, 1).expand(2, 3, 4, 6),
        torch.randn(3, 2, 3, 4, 6)[1],
        torch.randn(2, 3, 4, 12)[..., 1::2],
    )
    parameters = (
        torch.rand(6, 4).T,
        torch.rand(3, 2)[:, 1].view(3, 1, 1),
        torch.rand(1, 1, 4, 1).expand(2, 3, 4, 6),
        torch.rand(3, 4, 1),
        torch.rand(1),
        torch.rand(2, 1, 1, 6),
    )
    for v0 in v0s:
        for decay in parameters:
            decay, start = (
                decay.clone(memory_format=torch.preserve_format).requires_grad_(),
                v0.detach().requires_grad_(),
            )
            spikes, v = fastlif.lif(x, start, decay=decay)
            plain = decay.detach().contiguous().requires_grad_(), v0.contiguous().requires_grad_()
            wanted, wanted_v = fastlif.lif(x.contiguous(), plain[1], decay=plain[0])
            assert spikes.equal(wanted) and v.equal(wanted_v)
            g = torch.randn(v.shape)
            got = torch.autograd.grad((spikes, v), (decay, start), (g.expand(spikes.shape), g))
            want = torch.autograd.grad((wanted, wanted_v), plain, (g.expand(spikes.shape), g))
            assert norm_error(got[0], want[0]) <= 1e-6 and got[1].equal(want[1])


@pytest.mark.parametrize("emitted", HALVES)
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, *HALVES))
def test_autocast(dtype, emitted):
    """Spikes come in the autocast dtype; the membrane and every decision stay as without autocast."""
    x = torch.randn(9, 50, dtype=dtype, requires_grad=True)
    v0 = torch.randn(50, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    want, want_v = fastlif.lif(x, v0, decay=0.7)
    with torch.autocast("cpu", emitted):
        spikes, v = fastlif.lif(x, v0, decay=0.7)
    assert spikes.dtype == (torch.float64 if dtype == torch.float64 else emitted)
    assert spikes.double().equal(want.double()) and v.equal(want_v) and v.dtype == v0.dtype
    (got,) = torch.autograd.grad(spikes.sum(), x)
    assert got.dtype == dtype and got.equal(torch.autograd.grad(want.sum(), x)[0])


@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision(dtype, reset):
    """Against float32, at most twice the naive loop's error in the same dtype; flips only next to the threshold."""
    exact = torch.randn(16, 4000) + 0.3
    arriving = torch.randn(16, 4000)

    def outcome(function, to):
        x = exact.to(to).requires_grad_()
        spikes, v = function(x, decay=0.8, **reset)
        (gx,) = torch.autograd.grad(spikes, x, arriving.to(to))
        return spikes.detach().float(), v.detach().float(), gx.float()

    want = outcome(naive_lif, torch.float32)
    ours = outcome(fastlif.lif, dtype)
    naive = outcome(naive_lif, dtype)
    for name, got, other, true in zip(("spikes", "v", "gx"), ours, naive, want, strict=True):
        assert norm_error(got, true) <= 2 * norm_error(other, true), name
    x = exact.to(dtype)
    assert ours[0].equal(fastlif.lif(x.float(), decay=0.8, **reset)[0])  # of what x holds, not one spike is lost
    h = membranes(exact, reset)
    flipped = ours[0] != want[0]
    first = flipped & (flipped.cumsum(0) == 1)  # later ones follow from it
    assert (h[first] - 1).abs().max() <= 16 * torch.finfo(dtype).eps
    assert flipped.float().mean() < 0.02


def membranes(x, reset):
    """h of every step, float32."""
    v, found = torch.zeros(x.shape[1:]), []
    for step in x:
        h = 0.8 * v + step
        if reset.get("reset_delay"):
            h = h - (v >= 1).float()
        found.append(h)
        s = h >= 1
        v = {"soft": h if reset.get("reset_delay") else h - s.float(), "none": h}.get(reset["reset"])
        v = torch.where(s, reset["v_reset"], h) if v is None else v
    return torch.stack(found)


@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
@pytest.mark.parametrize("cut", (1, 16, 20))
def test_windows_equal_one_run(cut, reset):
    x = torch.randn(37, 3, 5, requires_grad=True)
    decay = torch.full((3, 1), 0.8, requires_grad=True)
    whole, last = fastlif.lif(x, decay=decay, **reset)
    first, v = fastlif.lif(x[:cut], decay=decay, **reset)
    second, end = fastlif.lif(x[cut:], v, decay=decay, **reset)
    spikes = torch.cat([first, second])
    assert spikes.equal(whole) and end.equal(last)
    g = torch.randn_like(whole)
    got = torch.autograd.grad((spikes, end), (x, decay), (g, g[0]))
    want = torch.autograd.grad((whole, last), (x, decay), (g, g[0]))
    assert got[0].equal(want[0]) and norm_error(got[1], want[1]) <= 1e-6


@pytest.mark.parametrize("reset", RESETS, ids=("soft", "delayed", "hard", "none"))
def test_truncation_is_detaching_between_windows(reset):
    x = torch.randn(23, 6, requires_grad=True)
    v0 = torch.randn(6, requires_grad=True)
    spikes, v = fastlif.lif(x, v0, truncate=5, **reset)
    parts, carried = [], v0
    for window in x.split(5):
        s, carried = fastlif.lif(window, carried if carried is v0 else carried.detach(), **reset)
        parts.append(s)
    g = torch.randn_like(spikes)
    got = torch.autograd.grad((spikes, v), (x, v0), (g, g[0]))
    want = torch.autograd.grad((torch.cat(parts), carried), (x, v0), (g, g[0]))
    assert got[0].equal(want[0]) and got[1].equal(want[1])


def test_steps_that_carry_no_gradient():
    x = torch.randn(12, 8, requires_grad=True)
    v0 = torch.randn(8, requires_grad=True)
    spikes, v = fastlif.lif(x, v0, truncate=(5, 2))
    gx, gv0 = torch.autograd.grad(spikes.sum() + v.sum(), (x, v0))
    carries = [t for t in range(12) if gx[t].any()]
    assert carries == [3, 4, 8, 9, 10, 11]  # the last window has two steps, both count
    assert not gv0.any()


def test_no_steps_and_no_neurons():
    v0 = torch.randn(3, requires_grad=True)
    spikes, v = fastlif.lif(torch.empty(0, 3), v0)
    assert spikes.shape == (0, 3) and v.equal(v0)
    assert torch.autograd.grad(v.sum(), v0)[0].tolist() == [1, 1, 1]
    x = torch.empty(4, 0, 2, requires_grad=True)
    decay = torch.tensor(0.5, requires_grad=True)
    spikes, v = fastlif.lif(x, decay=decay)
    gx, gdecay = torch.autograd.grad(spikes.sum() + v.sum(), (x, decay))
    assert gx.shape == x.shape and v.shape == (0, 2) and gdecay == 0
    spikes, v = fastlif.lif(torch.empty(0, 3))
    assert v.tolist() == [0, 0, 0]


def test_inputs_are_left_alone_and_outputs_are_new():
    x, v0 = torch.randn(4, 5), torch.randn(5)
    before = x.clone(), v0.clone()
    for steps in (4, 0):
        spikes, v = fastlif.lif(x[:steps], v0, reset="none")
        v.add_(1)
        spikes.add_(1)
    assert x.equal(before[0]) and v0.equal(before[1])


def test_in_place_change_of_x_is_noticed():
    x = torch.randn(4, 5, requires_grad=True).clone()
    spikes, _ = fastlif.lif(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


@pytest.mark.parametrize("backend", (None, "reference"))
def test_no_steps_of_a_tensor_with_gaps(backend):
    """With T = 0 every stride passes for contiguous; the membrane still comes back as it went in."""
    for x in (torch.randn(4, 9, 10)[:0, ::2, ::2], torch.randn(0, 1, 5).expand(0, 5, 5)):
        v0 = torch.arange(25.0).view(5, 5).requires_grad_()
        spikes, v = fastlif.lif(x, v0, backend=backend)
        assert spikes.shape == (0, 5, 5) and v.equal(v0)
        assert torch.autograd.grad(v.sum(), v0)[0].equal(torch.ones(5, 5))


def test_membranes_survive_autocast_to_another_half():
    """60000 twice is beyond float16 and within bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        out = fastlif.LI(decay=1.0)(torch.full((2, 1, 1), 60000.0, dtype=torch.float16))
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_numpy_numbers_are_numbers():
    x = torch.randn(6, 5)
    ours = fastlif.lif(x, decay=np.float32(0.5), truncate=np.int64(2))[0]
    assert ours.equal(fastlif.lif(x, decay=0.5, truncate=2)[0])
