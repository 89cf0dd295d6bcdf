"""event-digits: the recordings against a plain loop over the equation, their cache, and frames at any T."""

import hashlib
import importlib
import pickle
import warnings

import numpy as np
import pytest
import torch

from fastlif import data
from fastlif.data.digits import read

module = importlib.import_module("fastlif.data.event_digits")  # the function of that name hides it


@pytest.fixture(scope="module")
def events():
    return data.load("event-digits")


@pytest.fixture
def fresh():
    """Recordings are made or read anew in this test."""
    kept, module.recordings = module.recordings, module.recordings.__wrapped__
    yield
    module.recordings = kept


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A folder for the cache, where only three recordings are made."""
    monkeypatch.setenv("FASTLIF_CACHE", str(tmp_path / "cache"))
    pixels, labels, _ = read()
    monkeypatch.setattr(module, "read", lambda: (pixels[:3], labels[:3], ([0], [1], [2])))
    return tmp_path / "cache" / "event-digits-1.npz"


def naive(image):
    """Events of one image [8, 8] from 0 to 16, by the equation of the module's docstring, in float64."""
    corners = np.array([(-1.5, 1.5), (0.0, -1.5), (1.5, 1.5), (-1.5, 1.5)])
    grid = np.arange(16)

    def weights(offset):
        at = (grid - 7.5 - offset) / 1.5 + 3.5
        return np.maximum(0, 1 - abs(at[:, None] - np.arange(8)))

    def brightness(tick):
        side, along = divmod(tick, 320)
        x, y = corners[side] + (corners[min(side + 1, 3)] - corners[side]) * along / 320
        return weights(y) @ (image / 16) @ weights(x).T

    last, found = brightness(0), []
    for tick in range(960):
        change = (brightness(tick + 1) - last) * 4
        n = np.trunc(change + np.sign(change) * 1e-9)
        last += n / 4
        found += [(tick, int(x), int(y), bool(n[y, x] > 0)) for y, x in zip(*np.nonzero(n), strict=True)]
    return found


def test_recordings_follow_the_equation():
    """On an image of few bright pixels, for its edges move alone; float64 rounds within 1e-9 of the threshold."""
    image = np.zeros((8, 8))
    image[3, 4], image[7, 0], image[0, 7] = 16, 9, 5
    events, starts = module.record(image[None])
    assert events.tolist() == naive(image) and starts.tolist() == [0, len(events)] and len(events) > 50


@pytest.mark.parametrize("index", [0, 1000])
def test_recordings_of_digits_follow_the_equation(events, index):
    pixels, _, _ = read()
    found, _ = events.train.source[index]
    assert found.tolist() == naive(pixels[index].reshape(8, 8))


def test_numbers_are_whole_and_exact_in_float32():
    full = np.full((1, 8, 8), 16, dtype=np.float32)
    shown = [module.brightness(full, tick) for tick in range(module.TICKS + 1)]
    assert max(each.max() for each in shown) == 16 * module.PIXEL**2 < 2**24
    assert all((each == np.round(each)).all() for each in shown)
    noise = np.random.RandomState(0).randint(0, 17, (64, 8, 8)).astype(np.float32)
    shown = np.stack([module.brightness(noise, tick) for tick in range(module.TICKS + 1)])
    assert np.abs(np.diff(shown, axis=0)).max() < module.THRESHOLD  # so at most one event a pixel and tick
    assert np.array_equal(shown[0], shown[-1])  # the path is closed
    at_rest = module.interpolation(0) / module.PIXEL
    assert at_rest[2:14].sum(1)[1:-1] == pytest.approx(1) and at_rest[[0, 1, 14, 15]].sum() < 0.7  # 12 pixels wide


def test_recordings_are_the_same_everywhere(events):
    source = events.train.source
    assert len(source) == 1797 and len(source.events) == 1011056
    assert hashlib.sha256(source.events.tobytes()).hexdigest()[:16] == "009073cdab048ec1"
    for found, _ in (source[0], source[1796]):
        assert 100 < len(found) < 2000 and (np.diff(found["t"]) >= 0).all() and found["t"].max() < 960
    assert source.events["p"].mean() == pytest.approx(0.5, abs=0.01)


def test_parts_are_those_of_digits(events):
    digits = data.load("digits")
    for name in ("train", "validation", "test"):
        assert [y for _, y in getattr(events, name).at(1)] == [int(y) for _, y in getattr(digits, name)]
    assert events.shape == (2, 16, 16) and events.classes == 10
    copy = pickle.loads(pickle.dumps(events.train.at(3)))  # as workers get it that are not forked
    assert torch.equal(copy[5, 7][0], events.train.at(3)[5, 7][0])


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 7, 10, 33, 64])
def test_counts_and_binary_frames_at_any_number_of_steps(events, steps):
    batches = data.Batches.of(events, "test", 20, steps)
    x, y = next(iter(batches))
    assert x.shape == (steps, 20, 2, 16, 16) and x.dtype == torch.float32 and y.shape == (20,)
    recordings = [events.test.source[index][0] for index in events.test.indices[:20]]
    assert x.sum((0, 2, 3, 4)).tolist() == [len(each) for each in recordings]
    if 960 % steps == 0:  # exactly equal parts
        parts = torch.stack([data.binary(each, 960, (16, 16), 1, 0) for each in recordings], 1)
        assert torch.equal(x, parts.view(steps, 960 // steps, *x.shape[1:]).sum(1))

    flags, _ = next(iter(data.Batches.of(data.load("event-digits", encode="binary"), "test", 20, steps)))
    assert flags.shape == x.shape and set(flags.unique().tolist()) <= {0.0, 1.0}
    all_of_them = torch.stack([data.counts(each, 64, (16, 16), (0, 960)) for each in recordings], 1)
    assert torch.equal(flags, all_of_them[:steps].clamp(max=1))


def test_larger_frames_repeat_pixels():
    large, small = data.load("event-digits-48"), data.load("event-digits")
    assert large.name == "event-digits-48" and large.shape == (2, 48, 48) == data.load("event-digits", scale=3).shape
    (x, _), (wanted, _) = (next(iter(data.Batches.of(each, "validation", 5, 10))) for each in (large, small))
    assert torch.equal(x, torch.kron(wanted, torch.ones(3, 3)))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_frames_are_rolled_by_up_to_a_pixel_and_repeat(events, workers):
    def first(seed):
        generator = torch.Generator().manual_seed(seed)
        return next(iter(data.Batches.of(events, "train", 64, 4, "cpu", generator, workers=workers)))

    (x, _), (same, _), (other, _) = first(3), first(3), first(4)
    assert torch.equal(x, same) and not torch.equal(x, other)
    plain = torch.stack([sample for sample, _ in events.train.at(4)])
    ways = [plain.roll((down, right), (-2, -1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    used = [{i for i, way in enumerate(ways) if way.eq(x[:, b]).flatten(1).all(1).any()} for b in range(64)]
    assert all(used) and len(set.union(*used)) == 9


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="scale must be at least 1, got 0"):
        data.load("event-digits", scale=0)
    with pytest.raises(ValueError, match="period must be at least 1, got -5"):
        data.load("event-digits", encode="binary", period=-5)
    with pytest.raises(ValueError, match=r"unknown encode 'count'.*did you mean 'counts'"):
        data.load("event-digits", encode="count")


def test_recordings_are_kept_in_a_file(fresh, cache, monkeypatch):
    made, _ = module.recordings()
    assert [path.name for path in cache.parent.iterdir()] == ["event-digits-1.npz"]
    monkeypatch.setattr(module, "record", lambda images: pytest.fail("it is in the cache"))
    kept, _ = module.recordings()
    assert np.array_equal(kept.events, made.events) and np.array_equal(kept.starts, made.starts) and len(kept) == 3


def test_nothing_is_written_without_a_cache(fresh, cache, monkeypatch):
    monkeypatch.setenv("FASTLIF_CACHE", "")
    assert len(module.recordings()[0]) == 3 and not cache.parent.exists()


@pytest.mark.parametrize("content", ["", "cut", "other", "text"])
def test_a_damaged_cache_is_made_anew(fresh, cache, content):
    made, _ = module.recordings()
    whole = cache.read_bytes()
    if content == "other":
        np.savez(cache, something=np.zeros(3))
    else:
        cache.write_bytes({"": b"", "cut": whole[: len(whole) // 2], "text": b"not an archive"}[content])
    again, _ = module.recordings()
    assert np.array_equal(again.events, made.events)
    assert np.array_equal(module.load(cache)[0], made.events)


def test_a_cache_that_cannot_be_written_is_a_warning(fresh, cache, monkeypatch):
    def full(file, **arrays):
        file.write(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.warns(UserWarning, match=r"could not be kept in .*event-digits-1\.npz: .*No space left"):
        made, _ = module.recordings()
    assert len(made) == 3 and list(cache.parent.iterdir()) == []
    cache.parent.rmdir()
    cache.parent.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be kept"):
        module.recordings()


def test_recordings_are_made_once_a_process(events, monkeypatch):
    monkeypatch.setattr(module, "record", lambda images: pytest.fail("they have been made"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.load("event-digits", encode="binary").train.source is events.train.source
