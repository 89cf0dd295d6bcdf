"""State kept for backward: which format, for which steps, in which bytes, the same bytes from every backend."""

import math

import pytest
import torch

import fastlif
from fastlif.neuron import Neuron
from fastlif.ops import backends
from fastlif.ops.state import CHUNK, Keep, Layout, Schedule, choose

HERE = [b for b in backends.BACKENDS if not backends.reasons(b, torch.device("cpu"), torch.float32)]
RECTANGLE, TRIANGLE, PASS = fastlif.Rectangle(), fastlif.Triangle(), fastlif.PassThrough()


def kept(surrogate, decay=False, threshold=False, **options):
    return choose(Neuron(surrogate=surrogate, **options), True, decay, threshold)


def test_the_smallest_exact_format():
    assert kept(RECTANGLE) == kept(RECTANGLE, reset_delay=True) == kept(RECTANGLE, reset="none") == Keep.BITS
    assert kept(RECTANGLE, reset="hard", detach_reset=True) == kept(RECTANGLE, threshold=True) == Keep.BITS
    assert kept(RECTANGLE, reset="hard") == kept(RECTANGLE, decay=True) == Keep.INPUT
    assert kept(PASS) == kept(PASS, reset_delay=True, detach_reset=True) == Keep.NOTHING
    assert kept(PASS, threshold=True) == kept(PASS, reset="hard", detach_reset=True) == Keep.SPIKES
    assert kept(PASS, reset="hard") == kept(PASS, decay=True) == Keep.INPUT
    for surrogate in (TRIANGLE, "sigmoid", "atan", "fast_sigmoid"):
        assert kept(surrogate) == kept(surrogate, reset="hard", detach_reset=True) == Keep.INPUT
    assert choose(Neuron(), False, True, True) == Keep.NOTHING


def test_compact():
    assert kept(TRIANGLE, state="compact") == kept(RECTANGLE, state="compact", reset="hard") == Keep.CODE
    assert kept(TRIANGLE, threshold=True, state="compact") == Keep.CODE
    assert kept(RECTANGLE, state="compact") == Keep.BITS
    with pytest.raises(ValueError, match="decay and gain"):
        kept(TRIANGLE, decay=True, state="compact")


@pytest.mark.parametrize("windows", ((0, 0), (1, 1), (5, 5), (40, 40), (5, 2), (20, 19), (40, 20), (100, 33), (2, 1)))
@pytest.mark.parametrize("steps", (0, 1, 2, 4, 5, 15, 16, 17, 33, 100))
def test_schedule(steps, windows):
    """Chunks cover in order the steps that carry gradient, and no step twice; rows and borders are numbered densely."""
    k1, k2 = windows
    schedule = Schedule(steps, windows)
    chunks = schedule.chunks()
    covered = [t for chunk in chunks for t in range(chunk.start, chunk.stop)]
    rows = [chunk.row + t - chunk.start for chunk in chunks for t in range(chunk.start, chunk.stop)]

    def carries(t):
        return k1 == 0 or t >= min(t // k1 * k1 + k1, steps) - k2

    assert covered == [t for t in range(steps) if carries(t)] and rows == list(range(schedule.rows))
    assert all(chunk.stop - chunk.start <= CHUNK for chunk in chunks)
    assert sorted(chunk.border for chunk in chunks if chunk.border >= 0) == list(range(schedule.borders))
    assert [t for t in range(steps) if schedule.is_cut(t)] == [t for t in range(steps) if k1 and (t + 1) % k1 == 0]


@pytest.mark.parametrize("keep", list(Keep))
@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_layout(dtype, keep):
    for neurons in (1, 7, 8, 1001):
        for steps, windows in ((33, (0, 0)), (40, (20, 5))):
            layout = Layout((steps, neurons), windows, keep, dtype)
            compute = 8 if dtype == torch.float64 else 4
            rows, plane = layout.schedule.rows, math.ceil(neurons / 8)
            each = {Keep.SPIKES: plane, Keep.BITS: 2 * plane, Keep.CODE: neurons}.get(keep, 0)
            if keep == Keep.INPUT:
                borders = layout.schedule.borders * neurons * compute
                each = 0 if windows == (0, 0) else neurons * dtype.itemsize
                assert 0 < layout.rows_at - borders <= 64 and layout.rows_at % 64 == 0
            assert layout.nbytes == (layout.rows_at if keep == Keep.INPUT else 0) + rows * each


def state_of(backend, x, keep, neuron, v0=None):
    with torch.no_grad():
        return torch.ops.fastlif.lif_forward(
            x, v0, None, None, None, neuron.values, neuron.options, keep, False, x.dtype, backend
        )[:3]


NEURONS = (
    {"surrogate": fastlif.Rectangle(1.5)},
    {"surrogate": fastlif.Triangle(0.7), "reset": "hard", "v_reset": 0.2},
    {"surrogate": fastlif.Triangle(1.3), "reset_delay": True, "fire_on_equal": False, "truncate": (7, 3)},
    {"surrogate": "rectangle", "reset": "none", "decay": 0.9, "truncate": (20, 17)},
)


@pytest.mark.parametrize("keep", list(Keep))
@pytest.mark.parametrize("options", NEURONS, ids=str)
@pytest.mark.parametrize("backend", [b for b in HERE if b != "reference"])
def test_backends_keep_the_same_bytes(backend, options, keep):
    """Padding included, since fresh memory is poisoned alike; so one backend's state serves another's backward."""
    neuron = Neuron(**options)
    for shape in ((33, 1), (17, 8), (20, 3, 41), (40, 1003)):
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            x = (torch.randn(shape) * 4).round().div(4).to(dtype)  # on the window's edges too
            got, want = (state_of(b, x, int(keep), neuron) for b in (backend, "reference"))
            for a, b in zip(got, want, strict=True):
                assert a.equal(b)


@pytest.mark.parametrize("backend", HERE)
def test_code(backend):
    """Bit 7 is the spike; below it floor(127 * abs(z) / width), 126 at most inside the window and 127 outside."""
    width = 0.8
    h = torch.linspace(-0.5, 2.5, 3001).view(1, -1)
    h[0, :4] = torch.tensor([1 - width, 1 + width, 1.7999999, torch.nan])
    neuron = Neuron(surrogate=fastlif.Triangle(width), reset="none")
    spikes, _, state = state_of(backend, h, int(Keep.CODE), neuron)
    a = (h[0] - 1).abs()
    level = torch.where(
        a < torch.tensor(width), (a / torch.tensor(width) * 127).nan_to_num(127).int().clamp(max=126), 127
    )
    assert state.int().equal(level + 128 * spikes[0].int())


@pytest.mark.parametrize("backend", HERE)
def test_bits(backend):
    """Per step a plane of spikes, then a plane of whether abs(z) < width / 2; neuron n is bit n % 8 of byte n // 8."""
    x = torch.randn(5, 19)
    neuron = Neuron(surrogate=fastlif.Rectangle(1.0), reset="none", decay=0.0)
    spikes, _, state = state_of(backend, x, int(Keep.BITS), neuron)
    bits = torch.stack([state >> i & 1 for i in range(8)], 1).view(5, 2, 24)[..., :19].bool()
    assert bits[:, 0].equal(spikes.bool()) and bits[:, 1].equal((x - 1).abs() < 0.5)
