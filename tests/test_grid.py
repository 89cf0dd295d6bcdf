"""fastlif grid: its points, what is kept of each, going on where it was interrupted, and its table and pictures."""

import json
import os

import pytest
import torch

from fastlif import cli, cost
from fastlif.train import Config, build, grid, recipe
from fastlif.train.side_by_side import side_by_side, visible_gpus

OPTIONS = {"steps": 4, "epochs": 1, "batch_size": 512, "device": "cpu"}
SMALL = Config(**{**recipe("local/digits/lenet1"), **OPTIONS})


def fail(name, config, out):
    """A job that ends in an error from the second run on."""
    (out / "begun").touch()
    if not name.endswith("0"):
        raise RuntimeError("interrupted")
    return {"name": name}


def again(name, config, out):
    return {"name": name, "begun": (out / "begun").exists()}


def test_what_is_done_is_kept(tmp_path):
    configs = {f"run/{seed}": Config(seed=seed) for seed in range(2)}
    with pytest.raises(RuntimeError, match="run 'run/1': interrupted"):
        side_by_side(configs, fail, tmp_path, 1)
    found = side_by_side(configs, again, tmp_path, 1)
    assert found == {"run/0": {"name": "run/0"}, "run/1": {"name": "run/1", "begun": True}}
    moved = {"run/0": Config(seed=0, root="elsewhere", workers=2)}
    assert side_by_side(moved, fail, tmp_path, 1) == {"run/0": {"name": "run/0"}}
    (tmp_path / "run/0/config.json").unlink()  # as where its removal was interrupted: whose result is it?
    assert side_by_side({"run/0": Config()}, again, tmp_path, 1) == {"run/0": {"name": "run/0", "begun": False}}
    changed = {"run/0": Config(seed=0, lr=1e-2)}
    assert side_by_side(changed, again, tmp_path, 1) == {"run/0": {"name": "run/0", "begun": False}}


@pytest.mark.parametrize(
    ("named", "count", "found"),
    [(None, 2, ["0", "1"]), ("", 0, []), ("-1", 0, []), ("3, 5", 2, ["3", "5"]), ("1,-1,2", 1, ["1"])],
)
def test_gpus_that_may_be_used(named, count, found, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert visible_gpus() == found


def visible(name, config, out):
    return {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}


def test_gpus_are_dealt_to_runs_on_gpus(tmp_path, monkeypatch):
    configs = {str(seed): Config(seed=seed, device="cpu") for seed in range(2)}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr(Config, "torch_device", lambda self: torch.device("cuda:5"))
    with pytest.raises(ValueError, match="device must be 'cuda', each process takes its own: got 'cuda:5'"):
        side_by_side(configs, visible, tmp_path)
    monkeypatch.setattr(Config, "torch_device", lambda self: torch.device("cuda"))
    assert side_by_side(configs, visible, tmp_path) == {"0": {"gpu": "5"}, "1": {"gpu": "5"}}
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        side_by_side(configs, visible, tmp_path, 0)


def test_a_grid_of_two_points_and_bptt(tmp_path, capsys):
    given = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    points = ["--windows", "2", "--blocks", "1", "--kinds", "trainable", "random", "--seeds", "2"]
    command = ["grid", "local/digits/lenet1", *given, *points, "--out", str(tmp_path), "--processes", "2"]  # window 5
    assert cli.main(command) == 0
    rows = json.loads((tmp_path / "grid.json").read_text())["rows"]
    assert len(rows) == 6 and sum(grid.is_bptt(row, 4) for row in rows) == 2
    bptt, local, random = (
        next(row for row in rows if row["seed"] == 0 and (row["k"], row["classifiers"]) == point)
        for point in ((4, "trainable"), (2, "trainable"), (2, "random"))
    )
    assert bptt["kept"] > 2 * local["kept"] and bptt["macs"] > 3 * local["macs"]
    assert random["additions"] < local["additions"] and random["accesses"] < local["accesses"] < bptt["accesses"]
    x, _ = next(iter(build.batches(SMALL, build.dataset(SMALL), "test", 4)))
    net = build.network(SMALL, "fastlif", (1, 8, 8), 10)
    expected = cost.local_bptt(net, x, k=2, n=1, batch=512)
    assert (local["macs"], local["accesses"]) == (expected.total.macs, expected.total.accesses)
    mean = sum(row["accuracy"] for row in rows if row["k"] == 4) / 2
    ratios = sum(local[name] / bptt[name] for name in ("memory", "accesses", "additions", "macs")) / 4
    assert local["merit"] == pytest.approx((mean - local["accuracy"]) / mean + ratios)
    assert "| trainable | 1 | 2 | " in capsys.readouterr().out
    for name in ("accuracy", "memory", "costs", "merit"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--windows", "5", "--blocks", "1"], "a window must be at most T = 4 steps, got 5"),
        (["--windows", "0", "--blocks", "1"], "window must be k or"),
        (["--windows", "2", "--blocks", "-1"], "n must be at least 1, got -1"),
        (["--windows", "2", "--blocks", "1", "--method", "tet"], "a grid is of method='local-bptt', got 'tet'"),
        (["--windows", "2", "--blocks", "1", "--kinds", "fixed"], "unknown classifiers 'fixed'"),
        (["--windows", "2", "--blocks", "1", "--classifiers", "fixed"], "unknown classifiers 'fixed'"),
        (["--windows", "2", "--blocks", "1", "--seeds", "0"], "seeds must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(options, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["grid", "local/digits/lenet1", "--steps", "4", *options, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err and not out.exists()
