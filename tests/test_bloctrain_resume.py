"""Runs of BlocTrain that are ended anywhere, and go on to the same bits."""

import json

import pytest
import torch
from test_bloctrain_runs import SMALL, change

from fastlif.train import bloc_course, checkpoint, run, saved
from fastlif.train.bloctrain import BlocTrain


class Killed(BaseException):
    """As by a signal."""


def killing(monkeypatch, owner, name, at):
    """The `at`-th call of owner.name ends the run."""
    original, calls = getattr(owner, name), []

    def called(*args, **options):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return original(*args, **options)

    monkeypatch.setattr(owner, name, called)


PLACES = {  # 4 batches an epoch, 2 epochs a block
    "in the first epoch": (BlocTrain, "step", 3),
    "in block 1": (BlocTrain, "step", 6),
    "before the classes of block 1": (bloc_course, "split_classes", 1),
    "behind the classes of block 1": (BlocTrain, "step", 9),
    "in block 2": (BlocTrain, "step", 14),
    "before the classes of block 2": (bloc_course, "split_classes", 2),
    "behind the classes of block 2": (bloc_course, "inputs", 3),
    "in block 3": (BlocTrain, "step", -1),
    "before the classes of block 3": (bloc_course, "split_classes", 3),
    "before the file": (saved, "save", 1),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nobody ends, and the steps they took, by the way of the cache."""
    found = {}
    for cache in ("off", "on"):
        folder, steps = tmp_path_factory.mktemp(cache), []
        with pytest.MonkeyPatch.context() as patch:
            step = BlocTrain.step
            patch.setattr(BlocTrain, "step", lambda *args, step=step, steps=steps: (steps.append(1), step(*args))[1])
            run.train(change(SMALL, cache=cache), out=folder)
        found[cache] = folder, len(steps)
    return found


@pytest.mark.parametrize("cache", ["off", "on"])
@pytest.mark.parametrize("place", PLACES)
def test_a_killed_run_continues(tmp_path, monkeypatch, whole, place, cache):
    config, (folder, steps), (owner, name, at) = change(SMALL, cache=cache), whole[cache], PLACES[place]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killing(patch, owner, name, steps if at < 0 else at)
        run.train(config, out=tmp_path)
    assert not (tmp_path / "fastlif.pt").exists()
    run.train(config, out=tmp_path, resume=True)
    one, other = (checkpoint.read(path / "fastlif.pt")["weights"] for path in (folder, tmp_path))
    assert one.pop("_extra_state") == other.pop("_extra_state") == {"depth": 3, "kept": [True] * 3}
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    lines = [(path / "fastlif.jsonl").read_text().splitlines() for path in (folder, tmp_path)]
    assert len(lines[0]) == 6
    for one, other in zip(*lines, strict=True):
        one, other = json.loads(one), json.loads(other)
        assert all(given.pop(name) > 0 for given in (one, other) for name in ("step_ms", "seconds"))
        assert one == other
