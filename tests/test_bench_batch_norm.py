"""The batch norm benchmark: what is judged, and by what."""

import json

import pytest
import torch
from torch import nn

import fastlif
from bench import batch_norm, machine, report
from bench.__main__ import main

SHAPE = (4, 3, 5, 6, 7)


@pytest.mark.parametrize("layout", batch_norm.LAYOUTS)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_every_contender_computes_the_same(dtype, layout):
    copy, *rows = batch_norm.measure(list(SHAPE), dtype, layout, "cpu", 1)
    assert copy["contender"] == "copy" and copy["both"]["repeats"] == 1
    assert [row["contender"] for row in rows] == [row.name for row in batch_norm.contenders("cpu")]
    for row in rows:
        assert row["status"] == "ok" or "not installed" in row["reason"], row
        assert row["case"]["neurons"] == 3 * 5 * 6 * 7 and row["case"]["steps"] == 4 and row["case"]["layout"] == layout


@pytest.mark.parametrize(
    "wrong", ({"threshold": 1.2}, {"reset": "soft"}, {"surrogate": "rectangle"}, {"eps": 0.5}), ids=str
)
def test_a_wrong_contender_is_refused_and_not_timed(wrong, monkeypatch):
    def make(case, channels):
        return fastlif.BatchNormLIF(channels, **{"reset": "hard"} | wrong)

    broken = batch_norm.Contender("wrong", "fastlif", make, lambda item: 8 * item)
    monkeypatch.setattr(batch_norm, "contenders", lambda device: [broken])
    for dtype in ("float32", "bfloat16"):
        _, row = batch_norm.measure(list(SHAPE), dtype, "contiguous", "cpu", 1)
        assert row["status"] == "refused" and "computes something else" in row["reason"] and "both" not in row


def test_a_failing_contender_is_a_row(monkeypatch):
    def make(case, channels):
        raise RuntimeError("out of paper\nand more")

    broken = batch_norm.Contender("broken", "fastlif", make, lambda item: 8 * item)
    monkeypatch.setattr(batch_norm, "contenders", lambda device: [broken])
    _, row = batch_norm.measure(list(SHAPE), "float32", "contiguous", "cpu", 1)
    assert row["status"] == "failed" and row["reason"] == "RuntimeError: out of paper"


def test_bytes_that_must_move():
    moved = {row.name: (row.moves(4), row.moves(2)) for row in batch_norm.contenders("cuda")}
    assert moved["BatchNormLIF cuda"] == moved["BatchNormLIF"] == (32, 16)
    assert moved["spikingjelly cuda"] == moved["spikingjelly triton"] == (56, 32)
    assert moved["spikingjelly half"][1] == 28 and moved["spikingjelly torch"] == (None, None)


def test_a_step_takes_all_gradients():
    net = nn.Sequential(fastlif.PerStep(nn.BatchNorm2d(5)), fastlif.LIF())
    y = torch.randn(SHAPE, requires_grad=True)
    spikes, gy = batch_norm.step(net, y, torch.ones(SHAPE))
    assert spikes.shape == gy.shape == SHAPE and y.grad is None


def test_json_and_table(tmp_path, capsys):
    out = tmp_path / "batch_norm.json"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in machine.KEEP_PAGES.items():
            patch.setenv(name, value)
        arguments = ["--device", "cpu", "--shape", *map(str, SHAPE), "--dtype", "float32", "bfloat16", "--repeats", "2"]
        assert main(["batch_norm", *arguments, "--out", str(out)]) == 0
    table, result = out.with_suffix(".md").read_text(), json.loads(out.read_text())
    assert table in capsys.readouterr().out and report.write_report(out) == table
    assert len({row["title"] for row in result["rows"]}) == 4
    assert "## y of 4x3x5x6x7, bfloat16, channels last" in table and "| BatchNormLIF | " in table
