"""Parts whose samples are made when they are read, and their batches: the same for any number of workers."""

import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from fastlif import data
from fastlif.data.events import Frames


def make(raw, steps, seed):
    """[T, 2]: the raw number and, where there is a seed, noise from it."""
    noise = 0.0 if seed is None else torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    return torch.tensor([[raw, noise]] * steps)


def broken(raw, steps, seed):
    raise OSError("that file cannot be read")


SOURCE = [(float(i), i % 5) for i in range(100)]


def part(make=make, indices=range(20, 60)):
    return data.Part(SOURCE, indices, make)


def passes(workers, seed=0, number=2, **options):
    generator = torch.Generator().manual_seed(seed)
    batches = data.Batches(part(), 8, 3, "cpu", generator, encode=data.time_first, workers=workers, **options)
    found = [[(x.clone(), y) for x, y in batches] for _ in range(number)]
    return [tuple(map(torch.cat, ([x[0] for x, _ in each], [y for _, y in each]))) for each in found], generator


def test_samples_are_made_at_the_steps_asked_for():
    assert len(part()) == 40
    sample, label = part().at(4)[3]
    assert sample.tolist() == [[23.0, 0.0]] * 4 and label == 3
    assert torch.equal(part()[3, 9][0], part()[3, 9][0]) and not torch.equal(part()[3, 9][0], part()[3, 8][0])
    assert part()[3][0].shape == (1, 2)


def test_batches_do_not_depend_on_the_number_of_workers():
    before = torch.get_rng_state()
    (first, second), generator = passes(workers=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first[0][:, 0].unique().tolist() == list(range(20, 60))  # each sample once, in another order
    assert not torch.equal(first[0], second[0]) and len(set(first[0][:, 1].tolist())) == 40
    for workers in (1, 2):
        (x, y), others = passes(workers)
        assert all(map(torch.equal, (*x, *y), (*first, *second)))
        assert torch.equal(others.get_state(), generator.get_state())
    assert not torch.equal(passes(0, seed=1)[0][0][0], first[0])


def test_a_pass_repeats_from_the_generator_s_state():
    (_, second), _ = passes(workers=0)
    generator = torch.Generator().manual_seed(0)
    batches = data.Batches(part(), 8, 3, "cpu", generator, encode=data.time_first, workers=2)
    for _ in batches:
        pass
    resumed = torch.Generator()
    resumed.set_state(generator.get_state())
    batches = data.Batches(part(), 8, 3, "cpu", resumed, encode=data.time_first, workers=2)
    assert torch.equal(torch.cat([x[0] for x, _ in batches]), second[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_generator_they_come_in_order_and_as_they_are(workers):
    batches = data.Batches(part(), 16, 2, encode=data.time_first, workers=workers)
    assert [x.shape[1] for x, _ in batches] == [16, 16, 8] == [len(y) for _, y in batches]
    x = torch.cat([x[0] for x, _ in batches])
    assert x[:, 0].tolist() == list(range(20, 60)) and x[:, 1].eq(0).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_random_encoders_repeat_in_evaluation_and_vary_in_training(workers):
    def frame(batches):
        return torch.cat([x.flatten() for x, _ in batches])

    images = data.Part([(torch.full((50,), 0.5), 0)] * 16, range(16), lambda raw, steps, seed: raw)
    plain = data.Batches(images, 4, 6, encode=data.poisson, workers=workers)
    assert torch.equal(frame(plain), frame(plain)) and set(frame(plain).tolist()) == {0.0, 1.0}
    training = data.Batches(images, 4, 6, "cpu", torch.Generator().manual_seed(0), encode=data.poisson)
    again = data.Batches(images, 4, 6, "cpu", torch.Generator().manual_seed(0), encode=data.poisson, workers=workers)
    first, second = frame(training), frame(training)
    assert not torch.equal(first, second)
    assert torch.equal(frame(again), first) and torch.equal(frame(again), second)


def test_a_worker_that_dies_is_an_error():
    """In a process of its own: torch raises once more for the same worker, at a moment of its choosing."""
    program = """
import os
from fastlif import data
part = data.Part([(i, 0) for i in range(40)], range(40), lambda raw, steps, seed: os._exit(1) if raw == 9 else raw)
print(len(list(data.Batches(part, 4, 2, workers=1))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stdout == ""
    assert re.search(r"DataLoader worker .* exited unexpectedly|a worker that reads samples has died", done.stderr)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_an_error_that_says_so(workers):
    with pytest.raises(OSError, match="that file cannot be read"):
        list(data.Batches(part(broken), 4, 2, workers=workers))


def test_steps_below_1_and_batches_too_large_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        data.Batches(part(), 4, 0)
    with pytest.raises(ValueError, match="batch_size must be at most 40, the size of the training part, got 41"):
        data.Batches(part(), 41, 2, generator=torch.Generator())


def test_a_part_may_be_empty():
    assert list(data.Batches(part(indices=[]), 4, 2)) == []


def test_batches_of_a_data_set_use_its_encoder_and_augmentation():
    whole = data.Data("some", 5, (2,), part(), part(), part(), encode=data.time_first)
    x, _ = next(iter(data.Batches.of(whole, "validation", 4, 7)))
    assert x.shape == (7, 4, 2)
    assert pickle.loads(pickle.dumps(whole)).encode is data.time_first
    digits = data.load("digits", encode="poisson")
    x, _ = next(iter(data.Batches.of(digits, "train", 4, 7, "cpu", torch.Generator().manual_seed(0))))
    assert x.shape == (7, 4, 1, 8, 8) and set(x.unique().tolist()) == {0.0, 1.0}


def test_split_holds_out_a_share_of_every_class():
    labels = [0] * 50 + [1] * 30 + [2] * 7
    rest, held = data.split(labels, 0.1)
    assert sorted(rest + held) == list(range(87)) and rest == sorted(rest) and held == sorted(held)
    assert np.bincount(np.take(labels, held)).tolist() == [5, 3, 1]
    assert held == [2, 10, 11, 28, 41, 73, 75, 76, 82] and data.split(labels, 0.1)[1] == held
    assert data.split(labels, 0.0) == (list(range(87)), [])
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"the share held out must be in \[0, 1\)"):
            data.split(labels, share)


def test_frames_are_rolled_and_mirrored():
    frames = torch.arange(2 * 2 * 5 * 7.0).view(2, 2, 5, 7)
    seen = set()
    for seed in range(300):
        moved = Frames(lambda events, steps: frames, data.Roll(2, flip=True))(None, 2, seed)
        ways = [
            (down, right, flip)
            for down in range(-2, 3)
            for right in range(-2, 3)
            for flip in (False, True)
            if torch.equal(moved, (frames.flip(-1) if flip else frames).roll((down, right), (-2, -1)))
        ]
        assert len(ways) == 1
        seen.update(ways)
    assert len(seen) == 50  # every way there is
    assert torch.equal(Frames(lambda events, steps: frames, data.Roll(2))(None, 2, None), frames)
