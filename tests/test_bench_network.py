"""The benchmarks of whole networks: equal results, bytes counted by hand, and nothing left out in silence."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

import fastlif
from bench import libraries, machine, modes, network, onm, report, training
from bench.__main__ import main
from bench.choose import choose
from bench.network import QUICK, Network
from bench.onm import Onm
from bench.training import Parts, Run
from fastlif.train import naive
from fastlif.train.measure import neuron_steps

ROOT = Path(__file__).parents[1]
TINY = Network(**QUICK)
SPARSE = Onm(steps=20, batch=2, n=64)
PADDING = 64  # bytes behind what a LIF keeps
EAGER = ("naive", "spikingjelly", "spikingjelly memopt", "snntorch")
COMPILED = ("compile", "fastlif compiled", "spikingjelly compiled")


def named(table, name):
    return next(row for row in table if row.name == name)


def measured(work, table, *names):
    """Rows by name, without timing."""
    rows = [row for row in table if row.name in names]
    return {row["contender"]: row for row in training.run_all(work, rows, table[0], 0, with_peak=False)}


def run(tmp_path, *arguments):
    """The command in this process: what it wrote, and its table."""
    out = tmp_path / "result.json"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in machine.KEEP_PAGES.items():
            patch.setenv(name, value)  # what a re-executed process would find
        assert main([*arguments, "--quick", "--device", "cpu", "--out", str(out)]) == 0
    table = out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert report.write_report(out) == table
    return json.loads(out.read_text()), table


def test_vggsnn_has_the_designs_neuron_steps():
    assert Network().neuron_steps == 36_864_000
    net = TINY.net(Parts(naive.LIF))
    assert neuron_steps(net, TINY.inputs()[0], naive.LIF) == TINY.neuron_steps


def test_network_json_table_and_plot(tmp_path, capsys):
    result, table = run(tmp_path, "network", "--no-peak", "--amp", "bfloat16", "none", "--without", *COMPILED)
    assert table in capsys.readouterr().out
    rows = {row["contender"]: row for row in result["rows"]}  # the later ones
    assert [row["case"]["amp"] for row in result["rows"]] == ["bfloat16"] * len(rows) + [None] * len(rows)
    assert {"naive", "spikingjelly", "snntorch", "fastlif LIF", "fastlif recompute"} <= rows.keys() - {"compile"}
    for name, row in rows.items():
        assert row["status"] in ("ok", "missing"), row
        assert f"| {name} |" in table
        if row["status"] == "missing":
            assert row["reason"] in table and "kept_bytes" not in row
        else:
            assert row["both"]["median"] > 0 and row["flips"] <= 1e-4 and row["loss_error"] < 0.05
    assert rows["fastlif LIF"]["gradient_from_naive"] < 1e-5
    assert result["command"].startswith("python -m bench network")


@pytest.mark.parametrize("name", EAGER[1:3])
def test_peers_compute_the_same(name):
    if why := named(network.TABLE, name).missing(TINY):
        pytest.skip(why)
    row = measured(TINY, network.TABLE, name)[name]
    assert row["status"] == "ok" and row["gradient_from_naive"] < 1e-6, row


def test_kept_bytes_counted_by_hand():
    row = measured(TINY, network.TABLE, "fastlif LIF")["fastlif LIF"]
    pooled = TINY.steps * TINY.batch * 6 * 8 * 8 * 4
    statistics = 2 * 4 * (4 + 6 + 8)
    spike_bits = TINY.neuron_steps // 8  # for a layer behind that can use them; here it keeps the spikes themselves
    rest = row["kept_bytes"] - (12 * TINY.neuron_steps + pooled + statistics)
    assert 0 <= rest <= spike_bits + 3 * PADDING
    assert abs(row["alive_bytes"] - row["kept_bytes"]) < 4096


KEPT = {
    "fastlif LIF, bits": 8.7,
    "fastlif batch norm fused": 8.8,
    "fastlif batch norm fused, bits": 4.6,
    "fastlif compact(net)": 4.8,
    "fastlif one byte": 5.7,
    "fastlif recompute": 0.8,
}


@pytest.mark.parametrize("name", KEPT)
def test_kept_bytes_of_the_modes(name):
    work = replace(TINY, steps=8)
    row = measured(work, network.TABLE, name)[name]
    if row["status"] == "missing":
        pytest.skip(row["reason"])
    assert row["status"] == "ok", row
    assert row["alive_bytes"] <= KEPT[name] * work.neuron_steps


def test_memopt_keeps_bits_that_hooks_do_not_see():
    if why := named(network.TABLE, "spikingjelly").missing(TINY):
        pytest.skip(why)
    rows = measured(replace(TINY, steps=16), network.TABLE, *EAGER[1:3])
    plain, packed = (rows[name] for name in EAGER[1:3])
    assert packed["kept_bytes"] < packed["alive_bytes"] < plain["alive_bytes"] / 10


@pytest.mark.parametrize("level", (2, 3, 4))
def test_memopt_computes_the_same_however_it_splits(level, monkeypatch):
    """A search in which each trial takes less than the one before accepts every split, of layers and of time."""
    if why := named(network.TABLE, "spikingjelly").missing(TINY):
        pytest.skip(why)
    from spikingjelly.activation_based.memopt import pipeline

    trials = count()
    monkeypatch.setattr(pipeline, "_measure_peak", lambda *_: -next(trials))
    leaves = pipeline._checkpoint_leaves
    monkeypatch.setattr(pipeline, "_forward_costs", lambda net, *_: {path: 1.0 for path, _ in leaves(net)[:2]})
    contender = replace(named(network.TABLE, "spikingjelly memopt"), finish=partial(modes.memopt, level=level))
    work = replace(TINY, steps=4)
    (row,) = training.run_all(work, [contender], network.TABLE[0], 0, with_peak=False)
    assert row["status"] == "ok" and row["gradient_from_naive"] < 1e-6, row
    found = leaves(Run(contender, work).net)
    chunks = {module.checkpoint_fn.keywords["chunks"] for _, module in found}
    assert chunks == ({1} if level == 2 else {1, 4})


def test_spikingjelly_under_autocast():
    """Its membrane is float32, without which it would leave its kernels."""
    if why := named(network.TABLE, "spikingjelly").missing(TINY):
        pytest.skip(why)
    work = replace(TINY, amp="bfloat16")
    run = Run(named(network.TABLE, "spikingjelly"), work)
    assert run.forward().dtype == torch.bfloat16
    nodes = [module for module in run.net.modules() if type(module).__name__ == "Node"]
    assert len(nodes) == 3 and all(node.v.dtype == torch.float32 for node in nodes)
    assert "a GPU alone" in named(network.TABLE, "spikingjelly half").missing(work)


@pytest.mark.parametrize("library", ("spikingjelly", "snntorch"))
def test_a_missing_library_is_a_row(library, monkeypatch):
    monkeypatch.setitem(sys.modules, libraries.MODULES[library], None)
    rows = training.run_all(TINY, choose(network.TABLE, [library]), network.TABLE[0], 1, with_peak=False)
    assert rows and all(row["status"] == "missing" and "not installed" in row["reason"] for row in rows)


def test_a_missing_feature_is_a_row(monkeypatch):
    for name in ("BatchNormLIF", "compact"):
        monkeypatch.delattr(fastlif, name, raising=False)
    row = measured(TINY, network.TABLE, "fastlif recompute")["fastlif recompute"]
    assert row["status"] == "missing"
    assert "fastlif.BatchNormLIF" in row["reason"] and "fastlif.compact" in row["reason"]


@pytest.mark.parametrize("wrong", [{"threshold": 1.1}, {"decay": 0.4}, {"detach_reset": True}, {"reset": "soft"}])
def test_a_wrong_contender_is_refused_and_not_timed(wrong):
    right = named(network.TABLE, "fastlif LIF")
    contender = replace(right, parts=lambda form: Parts(partial(fastlif.LIF, **form | wrong)))
    (row,) = training.run_all(TINY, [contender], network.TABLE[0], 1, with_peak=False)
    assert row["status"] == "refused" and "computes something else" in row["reason"]
    assert "both" not in row
    assert row["reason"] in report_line(row)


def report_line(row):
    return " ".join(report.report_training.cells(row, [row]))


def test_a_failing_contender_is_a_row():
    def broken(form):
        raise RuntimeError("out of paper\nand more")

    contender = replace(named(network.TABLE, "naive"), name="broken", parts=broken)
    (row,) = training.run_all(TINY, [contender], network.TABLE[0], 1, with_peak=False)
    assert row["status"] == "failed" and row["reason"] == "RuntimeError: out of paper"


def test_too_large_a_network_is_a_row(monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda device: 1000)
    (row,) = training.run_all(TINY, [named(network.TABLE, "naive")], network.TABLE[0], 1, with_peak=False)
    assert row["status"] == "not run" and "GiB" in row["reason"]


def test_options_change_the_input():
    x, _ = replace(TINY, channels_last=True).inputs()
    assert x.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert x.unique().tolist() == [0, 1]
    assert Run(named(network.TABLE, "naive"), replace(TINY, amp="bfloat16")).forward().dtype == torch.bfloat16


def test_over_time(tmp_path):
    result, table = run(tmp_path, "network", "--over-time")
    kept = {(row["contender"], row["steps"]): row.get("kept_bytes") for row in result["rows"]}
    assert kept["naive", 16] > 1.7 * kept["naive", 8] > kept["fastlif LIF", 8]
    assert {row["status"] for row in result["rows"]} <= {"ok", "missing"}
    assert "| contender | T=8 | T=16 | note |" in table and "| fastlif checkpoint_time |" in table


def test_onm_json_table_and_plot(tmp_path):
    names = [row.name for row in onm.TABLE if row.name not in COMPILED]
    result, table = run(tmp_path, "onm", "--no-peak", "--without", *COMPILED)
    assert {row["status"] for row in result["rows"]} == {"ok", "missing"}
    assert all(f"| {name} |" in table for name in names)


@pytest.mark.parametrize(("name", "kept"), [("LIF", 4), ("one byte", 1), ("two bits", 0.25)])
def test_onm_kept_bytes(name, kept):
    row = measured(SPARSE, onm.TABLE, f"fastlif {name}")[f"fastlif {name}"]
    assert row["status"] == "ok", row
    border = 4 * SPARSE.batch * SPARSE.n * (name == "LIF")  # the membrane after 16 steps
    spike_bits = SPARSE.neuron_steps // 8 * (name == "LIF")
    assert 0 <= row["kept_bytes"] - (kept * SPARSE.neuron_steps + border) <= spike_bits + PADDING
    assert abs(row["alive_bytes"] - row["kept_bytes"]) < 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_in_a_fresh_process():
    work = Onm(steps=50, batch=16, n=256)
    command = [sys.executable, "-m", "bench", "peak", "--benchmark", "onm", "--case", json.dumps(work.__dict__)]
    done = subprocess.run([*command, "--contender", "naive"], cwd=ROOT, capture_output=True, text=True, check=True)
    grown = json.loads(done.stdout.splitlines()[-1])
    assert grown is None or 8 * work.neuron_steps < grown < 64 * work.neuron_steps + 2**26


def test_unknown_contender():
    with pytest.raises(SystemExit, match="no contender 'nest'; groups: compile, fastlif"):
        choose(network.TABLE, ["nest"])
