"""The command line, end to end."""

import json
import sys

import pytest
import torch

import fastlif
from fastlif import cli

TINY = ["train", "--steps", "2", "--epochs", "1", "--batch-size", "256"]


def test_train_compares_and_leaves_a_report(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main([*TINY, "--out", str(out)]) == 0
    found = json.loads((out / "report.json").read_text())
    assert list(found["runs"]) == ["naive", "fastlif"]
    assert found["config"]["steps"] == 2 and found["machine"]["torch"] == torch.__version__
    naive, ours = found["runs"].values()
    assert naive["test_accuracy"] == ours["test_accuracy"]  # these defaults train bit for bit alike
    assert found["gradients"]["largest_difference"] == 0
    assert ours["kept"]["total"] < naive["kept"]["total"] and ours["peak_memory"] > 2**20
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    theirs, weights = (torch.load(out / f"{name}.pt", weights_only=True)["weights"] for name in found["runs"])
    assert all(torch.equal(theirs[name], weights[name]) for name in weights)
    shown = capsys.readouterr().out
    for line in ("test accuracy", "time per step", "kept for backward", "peak memory", "equal bit for bit"):
        assert line in shown
    assert str(out / "report.png") in shown


def test_train_without_the_twin(tmp_path, capsys):
    assert cli.main([*TINY, "--no-compare", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found["runs"]) == ["fastlif"] and "gradients" not in found
    assert "naive" not in capsys.readouterr().out and (tmp_path / "report.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "fastlif train: error: steps must be at least 1, got 0"),
        (["--model", "convnte"], "did you mean 'convnet'"),
        (["--data", "digts"], "did you mean 'digits'"),
        (["--batch-size", "5000"], "batch_size must be at most 1257"),
    ],
)
def test_wrong_options_end_with_one_line(arguments, message, tmp_path, capsys):
    assert cli.main(["train", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()  # nothing was begun


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "5"], "--window is for --method local-bptt, and the method is bptt"),
        (["local/digits/lenet1", "--method", "tet", "--block", "1"], "--block is for --method local-bptt"),
        (["local/digits/lenet1", "--compare"], "--compare: local-bptt has no naive twin"),
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments, message, tmp_path, capsys):
    assert cli.main(["train", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["sklearn.datasets", "matplotlib", "tqdm"])
def test_missing_libraries_say_how_to_get_them(module, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main([*TINY, "--out", str(tmp_path / "out")]) == 1
    assert "pip install 'fastlif[train]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_broken_loss_ends_with_one_line(tmp_path, capsys):
    assert cli.main([*TINY, "--lr", "1e30", "--epochs", "3", "--no-compare", "--out", str(tmp_path)]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("fastlif train: error: epoch ") and "is not finite" in last


def test_info_prints_what_the_function_says(capsys):
    assert cli.main(["info"]) == 0
    assert capsys.readouterr().out.strip() == fastlif.info().strip()


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"fastlif {fastlif.__version__}\n"


def test_bench_without_a_checkout_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli, "CHECKOUT", tmp_path)
    assert cli.main(["bench", "layer"]) == 1
    assert "source checkout" in capsys.readouterr().err
