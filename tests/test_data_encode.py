"""Encoders, and how events become frames."""

import math

import numpy as np
import pytest
import torch

from fastlif import data

EVENT = np.dtype([("t", np.uint64), ("x", np.uint16), ("y", np.uint16), ("p", np.bool_)])  # as tonic has them
SIZE = (4, 6)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_events(number=500, length=1000, seed=0):
    draw = np.random.RandomState(seed)
    events = np.empty(number, dtype=EVENT)
    events["t"] = np.sort(np.concatenate([[0, length - 1], draw.randint(0, length, number - 2)])) + 7_000_000
    events["x"], events["y"], events["p"] = (draw.randint(0, n, number) for n in (SIZE[1], SIZE[0], 2))
    return events


def naive_frames(events, index, steps):
    frames = torch.zeros(steps, 2, *SIZE)
    for (_, x, y, p), i in zip(events.tolist(), index, strict=True):
        if 0 <= i < steps:
            frames[i, int(p), y, x] += 1
    return frames


def test_direct_is_a_view_over_steps():
    samples = torch.rand(2, 1, 8, 8)
    x = data.direct(samples, 5)
    assert x.shape == (5, 2, 1, 8, 8) and x.data_ptr() == samples.data_ptr() and x.stride(0) == 0
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        data.direct(samples, 0)


@pytest.mark.parametrize("peak", [1.0, 0.5, 4.0])
def test_poisson_fires_at_the_rate_and_with_the_sign_of_the_sample(peak):
    steps = 4000
    samples = torch.tensor([[-3.0, -1.0, -0.3, -0.0], [0.0, 0.1, 0.5, 2.0]])
    x = data.poisson(samples, steps, generator(), peak)
    assert x.shape == (steps, 2, 4) and x.dtype == samples.dtype and set(x.unique().tolist()) <= {-1, 0, 1}
    rate = (samples / peak).clamp(-1, 1)
    deviation = (rate.abs() * (1 - rate.abs()) / steps).sqrt()
    assert ((x.mean(0) - rate).abs() <= 4 * deviation).all()  # rates of 0, 1 and -1 exactly
    assert ((x * samples) >= 0).all()


def test_poisson_draws_from_its_generator_alone():
    samples, before = torch.rand(3, 5), torch.get_rng_state()
    one, same, other = (data.poisson(samples, 50, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    source = generator(1)
    first, second = data.poisson(samples, 50, source), data.poisson(samples, 50, source)
    assert torch.equal(first, one) and not torch.equal(second, one)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_poisson_keeps_the_dtype(dtype):
    assert data.poisson(torch.rand(2, 3).to(dtype), 4, generator()).dtype == dtype


def test_poisson_draws_the_same_on_any_device_from_the_same_kind_of_generator():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    samples = torch.rand(3, 5, device="cuda")
    one, same = (data.poisson(samples, 50, generator()) for _ in range(2))
    assert one.device == samples.device and torch.equal(one, same)
    data.poisson(samples, 50, torch.Generator("cuda").manual_seed(0))


def test_poisson_refuses_what_makes_no_sense():
    for peak in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="peak must be positive"):
            data.poisson(torch.rand(2), 4, generator(), peak)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        data.poisson(torch.rand(2), 0, generator())


def test_frames_go_time_first_and_are_enlarged_by_repetition():
    samples = torch.rand(3, 5, 2, 4, 6)
    x = data.time_first(samples, 5)
    assert x.is_contiguous() and torch.equal(x, samples.transpose(0, 1))
    large = data.time_first(samples, 5, scale=3)
    assert large.shape == (5, 3, 2, 12, 18)
    assert all(torch.equal(large[..., i::3, j::3], x) for i in range(3) for j in range(3))
    with pytest.raises(ValueError, match="these samples have 5 frames, and 4 steps were asked for"):
        data.time_first(samples, 4)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 64, 1500])
def test_counts_are_of_equal_parts(steps):
    events = some_events()
    index = [(t - 7_000_000) * steps // 1000 for t in events["t"].tolist()]
    frames = data.counts(events, steps, SIZE)
    assert frames.dtype == torch.float32 and torch.equal(frames, naive_frames(events, index, steps))
    assert frames.sum() == len(events)  # every event once
    shuffled = events[np.random.RandomState(1).permutation(len(events))]
    assert torch.equal(data.counts(shuffled, steps, SIZE), frames)


def test_counts_over_a_given_span_leave_out_what_is_outside():
    events = some_events()
    frames = data.counts(events, 5, SIZE, span=(7_000_100, 500))
    index = [(t - 7_000_100) // 100 for t in events["t"].tolist()]
    assert torch.equal(frames, naive_frames(events, index, 5)) and 0 < frames.sum() < len(events)


@pytest.mark.parametrize("steps", [1, 4, 10, 20])
def test_binary_frames_are_the_first_of_a_fixed_period(steps):
    events = some_events()
    index = [(t - 7_000_000) // 100 for t in events["t"].tolist()]
    frames = data.binary(events, steps, SIZE, 100)
    assert torch.equal(frames, naive_frames(events, index, steps).clamp(max=1))
    assert frames[10:].eq(0).all() and frames[:10].flatten(1).any(1).all()  # the recording is over after 10
    assert torch.equal(data.binary(events, 20, SIZE, 100)[:steps], frames)
    later = data.binary(events, steps, SIZE, 100, start=7_000_100)
    assert torch.equal(later, data.binary(events, steps + 1, SIZE, 100)[1:])


def test_counts_agree_with_tonic():
    transforms = pytest.importorskip("tonic.transforms", reason="tonic is not installed", exc_type=ImportError)
    events = some_events(length=1001)  # tonic's parts are (last - first) // steps long, and leave out the last event
    for steps in (1, 4, 10):
        theirs = transforms.ToFrame(sensor_size=(SIZE[1], SIZE[0], 2), n_time_bins=steps)(events)
        ours = data.counts(events, steps, SIZE, span=(7_000_000, 1000))
        assert torch.equal(torch.from_numpy(theirs.astype(np.float32)), ours)


def test_no_events_make_empty_frames():
    none = np.empty(0, dtype=EVENT)
    assert data.counts(none, 3, SIZE).eq(0).all() and data.counts(none, 3, SIZE).shape == (3, 2, *SIZE)
    assert data.binary(none, 3, SIZE, 5).eq(0).all()
    one = some_events()[:1]
    assert data.counts(one, 3, SIZE)[0].sum() == 1


def test_events_refuse_what_makes_no_sense():
    events = some_events()
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        data.counts(events, 0, SIZE)
    with pytest.raises(ValueError, match="steps must be at least 1, got -1"):
        data.binary(events, -1, SIZE, 100)
    with pytest.raises(ValueError, match="period must be at least 1, got 0"):
        data.binary(events, 2, SIZE, 0)
    with pytest.raises(ValueError, match="events outside 5x4 pixels, at x 5 or y 3"):
        data.counts(events, 2, (4, 5))
