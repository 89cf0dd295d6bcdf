"""The benchmark's own rules: equal results before timing, nothing left out in silence, tables made from JSON."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import layer, libraries, machine, ours, overhead, report
from bench.__main__ import main
from bench.case import Case
from bench.check import Difference, compare, reference
from bench.contenders import TABLE, Contender, Layer, select
from bench.results import load, save
from bench.timing import alternate, summary

ROOT = Path(__file__).parents[1]
TINY = Case(5, 257)


def checked(contender: Contender, case: Case) -> dict:
    """The row of a contender after the check, without timing."""
    rows = {contender.name: layer.start_row(case, contender)}
    if rows[contender.name]["status"] == "ok":
        layer.check([contender], case, case.inputs(), rows)
    return rows[contender.name]


def named(name: str) -> Contender:
    return next(c for c in TABLE if c.name == name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("contender", [c for c in select("cpu") if c.group != "compile"], ids=lambda c: c.name)
def test_every_contender_computes_the_same(contender, reset, dtype):
    case = replace(TINY, reset=reset, dtype=dtype)
    if why := contender.missing(case):
        pytest.skip(why)
    row = checked(contender, case)
    assert row["status"] == "ok", row
    assert row["flips"] == 0


def test_compiled_loop_computes_the_same():
    row = checked(named("compile triangle"), TINY)
    assert row["status"] == "ok", row


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": 1.1}, {"decay": 0.4}, {"detach_reset": True}, {"surrogate": "rectangle"}, {"reset": "hard"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_contender_is_refused_and_not_timed(wrong):
    right = named("fastlif triangle exact")
    contender = replace(right, build=lambda case, data: Layer(ours.public(case.form() | wrong), data))
    _, row = layer.run_case(TINY, [contender], repeats=1)
    assert row["status"] == "refused" and "computes something else" in row["reason"]
    assert "both" not in row and "forward" not in row


def test_nan_and_wrong_shapes_are_refused():
    x, gs, *_ = TINY.inputs()
    spikes, gx = expected = reference(TINY.form(), x, gs)
    assert compare(expected, expected) == Difference(0.0, 0.0)
    for results in ((spikes, gx * float("nan")), (spikes[1:], gx), (1 - spikes, gx)):
        assert compare(results, expected).refusal(1e-4, torch.float32)


def test_the_check_looks_at_gradients_only_where_spikes_agree():
    x, gs, *_ = TINY.inputs()
    spikes, gx = expected = reference(TINY.form(), x, gs)
    flipped, off = spikes.clone(), gx.clone()
    flipped[0, 0] = 1 - flipped[0, 0]
    off[:, 0] += 1
    assert compare((flipped, off), expected).gradient == 0
    assert compare((spikes, off), expected).gradient > 0.01


def test_spikingjelly_keeps_h_in_half_precision(monkeypatch):
    """By its own means; whether it can do so here, it asks CUDA."""
    case = replace(TINY, dtype="bfloat16", device="cuda")
    if why := libraries.missing("spikingjelly", case):
        pytest.skip(why)
    answers = {"is_available": True, "current_device": 0, "device_count": 1, "is_bf16_supported": True}
    answers |= {"get_device_name": "some", "get_device_capability": (9, 0)}
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    layer = libraries.SpikingJelly(case, backend="half")
    assert layer.node._neuron_precision == (torch.bfloat16, "fp32", "fp32") and layer.requested == "triton"
    assert libraries.SpikingJelly(case, "rectangle", "torch").requested == "auto"
    assert libraries.spikingjelly_missing(replace(case, dtype="float32"), "triangle", "half") == "float32 is not half"


@pytest.mark.parametrize("library", libraries.MODULES)
def test_a_missing_library_is_a_row(library, monkeypatch):
    monkeypatch.setitem(sys.modules, libraries.MODULES[library], None)
    rows = layer.run_case(TINY, select("cpu", [library]), repeats=1)
    assert len(rows) > 1
    assert all(row["status"] == "not available" for row in rows[1:])
    assert all("not installed" in row["reason"] for row in rows[1:])
    assert all("not installed" in line for line in report.case_table(TINY, rows)[3:])


def test_a_missing_extension_is_a_row(monkeypatch):
    monkeypatch.setattr(ours.backends.native, "missing", "the compiled extension fastlif._C cannot be loaded")
    _, row = layer.run_case(TINY, [named("kernel cpu rectangle exact")], repeats=1)
    assert row["status"] == "not available" and "extension" in row["reason"]


def test_a_failing_contender_is_a_row():
    def build(case, data):
        raise RuntimeError("out of paper\nand more")

    _, row = layer.run_case(TINY, [replace(named("naive triangle"), build=build)], repeats=1)
    assert row["status"] == "failed" and row["reason"] == "RuntimeError: out of paper"


def test_too_large_a_case_is_a_row(monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda device: 1000)
    (row,) = layer.run_case(TINY, [named("naive triangle")], repeats=1)
    assert row["status"] == "not run" and "GiB" in row["reason"]


@pytest.mark.parametrize(
    ("name", "reset", "per_neuron_step"),
    [("rectangle exact", "soft", 0.25), ("triangle compact", "hard", 1.0), ("triangle exact", "soft", 4.0)],
)
def test_kept_bytes(name, reset, per_neuron_step):
    case = Case(16, 1024, reset=reset)
    kept = checked(named(f"fastlif {name}"), case)["kept_bytes"]
    assert per_neuron_step <= kept / case.neuron_steps <= per_neuron_step + 0.02


@pytest.mark.parametrize(("dtype", "moved"), [("float32", (16.5, 18, 20)), ("bfloat16", (8.5, 10, 10))])
def test_bytes_that_must_move(dtype, moved):
    case = replace(TINY, steps=16, dtype=dtype, device="cuda")
    assert tuple(named(f"fastlif {name}").moves(case) for name in ours.FORMATS) == moved
    assert case.moved_bytes(moved[0]) == moved[0] + 0.25, "and the final membrane, 4 bytes a neuron"
    assert case.moved_bytes(None) is None
    theirs = {"float32": (24, 24), "bfloat16": (16, 12)}[dtype]
    assert tuple(named(f"spikingjelly {name} triangle").moves(case) for name in ("triton", "half")) == theirs


def test_a_check_on_a_part_of_the_neurons(monkeypatch):
    """The same figures as from all of them, but for what is said of it."""
    names = ["naive triangle", "fastlif triangle exact", "kernel cpu triangle compact", "kernel cpu rectangle exact"]
    case = Case(4, 1000)
    whole = layer.run_case(case, [named(name) for name in names], 1, directions=("both",))
    monkeypatch.setattr(layer, "CHECKED", 4 * 100)
    part = layer.run_case(case, [named(name) for name in names], 1, directions=("both",))
    for one, other in zip(part[1:], whole[1:], strict=True):
        if "extension" in one.get("reason", ""):
            continue
        assert one["status"] == "ok" and one["checked_neurons"] == 100 and "checked_neurons" not in other
        assert one["kept_bytes"] == pytest.approx(other["kept_bytes"], rel=0.2) and "forward" not in one
        assert one["both"]["repeats"] == 1
    assert "checked on 100 neurons" in report.case_table(case, part)[-1]


def test_what_does_not_fit_says_so_one_by_one(monkeypatch):
    monkeypatch.setattr(layer, "CHECKED", 4 * 100)
    room = iter([1 << 40, 1 << 40, 1000, 1 << 40])  # for all, then for each of them
    monkeypatch.setattr(machine, "available_bytes", lambda device: next(room))
    names = ["naive triangle", "naive rectangle", "fastlif triangle exact"]
    rows = layer.run_case(Case(4, 1000), [named(name) for name in names], 1)
    assert [row["status"] for row in rows] == ["ok", "ok", "not run", "ok"]
    assert "needs about 0 GiB more, and 0 are free" in rows[2]["reason"] and "both" not in rows[2]


def test_kernels_write_where_the_copies_do():
    data = TINY.inputs()
    run = named("kernel cpu rectangle exact")
    if why := run.missing(TINY):
        pytest.skip(why)
    spikes, gx = run.build(TINY, data).both()
    assert spikes is data.spikes and gx is data.gx


def test_run_json_table_and_plot(tmp_path, capsys):
    out = tmp_path / "layer.json"
    args = ["layer", "--quick", "--device", "cpu", "--neurons", "64", "--reset", "soft", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in machine.KEEP_PAGES.items():
            patch.setenv(name, value)  # what a re-executed process would find
        assert main([*args, "--contenders", "naive", "fastlif"]) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert {row["status"] for row in result["rows"]} == {"ok"}
    assert result["command"].startswith("python -m bench layer --quick")
    assert result["versions"]["torch"] == torch.__version__ and result["machine"]["cores"] > 0
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    table = out.with_suffix(".md").read_text()
    assert table in printed
    assert all(f"| {row['contender']} |" in table for row in result["rows"])
    save(out, load(out))
    assert report.write_report(out) == table


def test_ratios_in_the_table():
    def row(name, group, both):
        times = {"both": summary([both]), "forward": summary([both / 4])}
        return {"contender": name, "group": group, "status": "ok", "note": "", "kept_bytes": 257 * 5, **times}

    rows = [row("copy", "copy", 2.0), row("naive", "naive", 8.0), row("slow", "naive", 9.0), row("we", "fastlif", 4.0)]
    cells = [cell.strip() for cell in report.case_table(TINY, rows)[-1].split("|")[1:-1]]
    assert cells == ["we", "4e+03 (4e+03-4e+03)", "2.00", "1e+03", "2.00", "2.00", "", "", "", "1", "", ""]


def test_share_of_copy_bandwidth():
    copy = {"moved_bytes": 16, "both": summary([2.0])}
    assert report.bandwidth_share({"moved_bytes": 20, "both": summary([2.5])}, copy) == "100%"
    assert report.bandwidth_share({"moved_bytes": None, "both": summary([2.5])}, copy) == ""


def test_contenders_alternate():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = alternate(calls, "cpu", range(3), warm_up=1)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert times["a"]["repeats"] == 3


def test_summary_of_times():
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0, "repeats": 5}


def test_unknown_contender():
    with pytest.raises(SystemExit, match="no contender 'nest' on cpu; groups: compile, fastlif"):
        select("cpu", ["nest"])


def test_a_bad_result_file(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(SystemExit, match="holds no benchmark rows"):
        load(tmp_path / "x.json")


def test_overhead_json_and_table(tmp_path, capsys):
    out = tmp_path / "overhead.json"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in machine.KEEP_PAGES.items():
            patch.setenv(name, value)
        arguments = ["--device", "cpu", "--steps", "2", "3", "--repeats", "3", "--out", str(out)]
        assert main(["overhead", *arguments]) == 0
    assert main(["report", str(out)]) == 0
    table = out.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    assert all(f"| T={steps}, 16 neurons, float32 | {name} |" in table for steps in (2, 3) for name in ours.FORMATS)


def test_overhead_compares_with_an_operator_of_the_same_schema():
    empty = overhead.empty_operator()
    real = torch.ops.fastlif.lif_forward.default._schema
    assert str(empty.default._schema).removeprefix("fastlif_bench::") == str(real).removeprefix("fastlif::")
    rows = overhead.measure(Case(4, 16), 3)
    assert [row["contender"] for row in rows] == [f"cpu {name}" for name in ours.FORMATS]
    for row in rows:
        if row["status"] == "ok":
            assert row["empty"]["median"] == min(row["twin"]["median"], row["nobody"]["median"])


def test_a_failing_call_is_a_row_of_overhead(monkeypatch):
    def broken(*_):
        raise RuntimeError("out of paper")

    monkeypatch.setattr(overhead, "calls_of", broken)
    monkeypatch.setattr(overhead.ours, "missing", lambda backend, case: None)
    rows = overhead.measure(Case(4, 16), 3)
    assert {row["reason"] for row in rows} == {"RuntimeError: out of paper"}
    assert report.overhead_table({"rows": rows})[-1].endswith("| failed: RuntimeError: out of paper |")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_in_a_fresh_process():
    case = Case(4, 1 << 18)
    command = [sys.executable, "-m", "bench", "peak", "--case", json.dumps(case.as_dict())]
    done = subprocess.run(
        [*command, "--contender", "naive triangle"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    grown = json.loads(done.stdout)
    assert grown is None or case.tensor_bytes * 2 < grown < case.tensor_bytes * 30
