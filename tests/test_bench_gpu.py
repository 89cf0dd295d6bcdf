"""The GPU run without a GPU: its budget, what it does with steps that hang or fail, and what its steps are."""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench import gpu, gpu_peer, gpu_steps
from bench.__main__ import parser_and_parts
from bench.gpu_steps import Step

ROOT = Path(__file__).parents[1]
H200 = {"name": "NVIDIA H200", "capability": "9.0"}
HANGS = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def step(name, script="print('done')", limit=30.0, **more):
    return Step(name, gpu_steps.python("-c", script), limit, **more)


def run(steps, folder, seconds=60.0):
    """The summary as it lies on disk, and its table."""
    summary = gpu.run_all(steps, folder, time.monotonic() + seconds, {"device": "some", "command": "c", "commit": "1"})
    assert json.loads((folder / "summary.json").read_text()) == summary
    return summary["steps"], (folder / "summary.md").read_text()


def all_steps(device, folder=Path("out"), wheels=None):
    return {s.name: s for s in gpu_steps.steps(folder, device, wheels, Path("site"))}


def gone(pid):
    """Whether a process has ended; one that nobody has waited for yet counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_a_failing_step_is_recorded_and_others_go_on(tmp_path):
    records, table = run([step("bad", "print('why'); raise SystemExit(3)"), step("good")], tmp_path)
    assert (records["bad"]["status"], records["bad"]["code"], records["bad"]["said"]) == ("failed", 3, "why")
    assert records["good"]["status"] == "ok"
    assert "| bad | FAILED |" in table and "| good | ok |" in table
    assert (tmp_path / "good.log").read_text() == "done\n"


def test_without_time_the_rest_is_skipped(tmp_path):
    slow = step("slow", "import time; print('begun', flush=True); time.sleep(600)", least=0.1)
    records, table = run([step("first", least=0), slow, step("late"), step("last")], tmp_path, gpu.GRACE + 3)
    assert [r["status"] for r in records.values()] == ["ok", "stopped", "skipped", "skipped"]
    assert records["slow"]["said"].endswith("; begun") and "no time" in records["late"]["said"]
    assert all(f"| {name} |" in table for name in records)
    assert "not measured" in (tmp_path / "targets.md").read_text()


def test_steps_of_a_group_run_side_by_side(tmp_path):
    """Each waits for the other's file; one is stopped at its own limit, one fails, and the next step comes after."""
    meet = (
        "import pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.02)\n"
        "print('met'); raise SystemExit(int(sys.argv[3]))\n"
    )
    one, other = (str(tmp_path / name) for name in ("one", "other"))
    steps = [
        Step("a", gpu_steps.python("-c", meet, one, other, 0), 60, group="together"),
        Step("b", gpu_steps.python("-c", meet, other, one, 3), 60, group="together"),
        step("c", "import time; time.sleep(600)", 1, group="together"),
        step("d"),
    ]
    records, _ = run(steps, tmp_path)
    assert [r["status"] for r in records.values()] == ["ok", "failed", "stopped", "ok"]
    assert records["a"]["said"] == "met" and records["d"]["at"] >= records["a"]["at"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_step_that_hangs_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.2)
    records, _ = run([step("hangs", HANGS, 10), step("next")], tmp_path)
    assert [r["status"] for r in records.values()] == ["stopped", "ok"]
    child = int((tmp_path / "hangs.log").read_text())
    until = time.monotonic() + 5
    while not gone(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(child)


def test_what_is_missing_is_said(tmp_path):
    records, table = run([step("tool", missing=lambda: "no such tool")], tmp_path)
    assert records["tool"]["status"] == "not run"
    assert "| tool | not run | 0 | no such tool |" in table
    assert gpu_steps.needs("json", "nowhere_to_be_found")() == "not installed: nowhere_to_be_found"


def test_steps_done_before_stay_in_the_summary(tmp_path):
    run([step("one"), step("two")], tmp_path)
    records, _ = run([step("two", "raise SystemExit(1)")], tmp_path)
    assert {name: r["status"] for name, r in records.items()} == {"one": "ok", "two": "failed"}


def test_the_rest(tmp_path):
    """What is not ok, what has left too little, and what would have to be made again."""
    head, product = {"device": "some", "commit": "1"}, tmp_path / "product"
    steps = [step("ok"), step("bad", "raise SystemExit(1)"), step("gone", missing=lambda: "no such tool")]
    steps += [step("file", leaves=("file.json",)), step("built", makes=(product,)), step("new")]
    (tmp_path / "file.json").touch()
    with pytest.raises(SystemExit, match="to go on from"):
        gpu.left_of(steps, tmp_path, head)
    run(steps[:-1], tmp_path)  # which takes an earlier run's file away
    product.touch()
    assert [s.name for s in gpu.left_of(steps, tmp_path, head)] == ["bad", "gone", "file", "new"]
    product.unlink()
    (tmp_path / "file.json").touch()
    assert [s.name for s in gpu.left_of(steps, tmp_path, head)] == ["bad", "gone", "built", "new"]
    for other in ({"commit": "2"}, {"device": "another"}):
        with pytest.raises(SystemExit, match=next(iter(other))):
            gpu.left_of(steps, tmp_path, head | other)


def test_which_steps():
    def names(*arguments):
        parser = argparse.ArgumentParser()
        gpu.add_arguments(parser)
        return [s.name for s in gpu.select([step(name) for name in "abc"], parser.parse_args(arguments))]

    assert (
        names() == ["a", "b", "c"] and names("--only", "c", "a") == ["a", "c"] and names("--without", "b") == ["a", "c"]
    )
    with pytest.raises(SystemExit, match="no step 'nest'; steps: a, b, c"):
        names("--without", "nest")


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_interrupted(tmp_path):
    """What was done is there, and the step under way has ended."""
    script = (
        "import signal, sys, time; from pathlib import Path; from bench import gpu; from bench.gpu_steps import *\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "wait = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "steps = [Step(name, python('-c', wait if name == 'b' else ''), 900) for name in 'abc']\n"
        "gpu.run_all(steps, Path(sys.argv[1]), time.monotonic() + 900, {'device': '', 'command': '', 'commit': '1'})\n"
    )
    running = subprocess.Popen([sys.executable, "-c", script, tmp_path], cwd=ROOT)
    log, until = tmp_path / "b.log", time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")) and time.monotonic() < until:
        time.sleep(0.05)
    running.terminate()
    assert running.wait(30) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interrupted"]
    assert [r["status"] for r in summary["steps"].values()] == ["ok", "interrupted", "not reached"]
    assert gone(int(log.read_text().split()[0]))


def test_the_steps_on_a_gpu(tmp_path):
    found = all_steps(H200)
    assert list(found) == [
        "wheels", "build", "spikingjelly", "sample", "tests-cuda", "tests-triton", "memcheck", "racecheck",
        "initcheck", "tests-huge", "copy", *gpu_steps.BENCHMARKS,
    ]  # fmt: skip
    assert [name for name, step in found.items() if step.group == gpu_steps.SANE] == list(found)[4:9]
    assert found["build"].environment == {"FASTLIF_CUDA": "1", "FASTLIF_CUDA_ARCHS": "90"}
    for tool in ("memcheck", "racecheck", "initcheck"):
        command = found[tool].command
        assert "compute-sanitizer" in command[0] and command[command.index("--tool") + 1] == tool
        assert ("triton" in command) == (tool != "initcheck")
    for name in ("layer", "network", "onm"):  # all peers
        assert "--contenders" not in found[name].command and found[name].timed
    for backend in ("cuda", "triton"):
        command = found[f"tests-{backend}"].command
        assert "tests/test_gpu_equal.py" in command and f"cuda-{backend} and not more_elements" in command
    profile = found["tests-triton"].command.index("--hypothesis-profile")
    assert found["tests-triton"].command[profile - 1 : profile + 2] == (
        "bench.gpu_examples",
        "--hypothesis-profile",
        "few",
    )
    assert "more_elements" in found["tests-huge"].command and "-n" not in found["tests-huge"].command
    assert found["wheels"].missing() == found["spikingjelly"].missing() == "no --wheels FOLDER"
    for name in ("spikingjelly-2.0.0.tar.gz", "loguru-0.7.3-py3-none-any.whl"):
        (tmp_path / name).touch()
    found = all_steps(H200, wheels=tmp_path)
    assert found["wheels"].missing() is found["spikingjelly"].missing() is None
    assert str(tmp_path / "loguru-0.7.3-py3-none-any.whl") in found["wheels"].command
    assert str(tmp_path / "spikingjelly-2.0.0.tar.gz") in found["spikingjelly"].command


def test_the_peers_source_is_cut_to_one_operator(tmp_path):
    kernels = [tmp_path / "peer-1" / "ops" / name / "native.cu" for name in ("lif", "if_", "plif")]
    for kernel in kernels:
        kernel.parent.mkdir(parents=True)
        kernel.touch()
    with tarfile.open(tmp_path / "peer.tar.gz", "w:gz") as file:
        file.add(tmp_path / "peer-1", "peer-1")
    source = gpu_peer.unpack(tmp_path / "peer.tar.gz", tmp_path / "there")
    assert [path.parent.name for path in source.glob("ops/*/native.cu")] == ["lif"]
    built = gpu_peer.environment("9.0")
    assert built["SJ_BUILD_NATIVE_CUDA"] == "1" and built["TORCH_CUDA_ARCH_LIST"] == "9.0"


@pytest.mark.parametrize("device", (None, H200), ids=("reduced", "cuda"))
def test_commands_parse_and_name_what_is_there(device):
    """Also the contenders that they leave out or ask for."""
    parser, parts = parser_and_parts()
    parsed = 0
    for found in all_steps(device).values():
        if found.command[1:3] == ("-m", "bench"):
            args = parser.parse_args(found.command[3:])
            module = parts[args.command]
            assert args.device == ("cuda" if device else "cpu") and args.out.name == found.leaves[0]
            if args.command == "layer":
                assert module.select(args.device, args.contenders, args.without) and module.cases(args, args.device)
            elif args.command in ("network", "onm"):
                module.choose(module.TABLE, args.contenders, args.without)
            parsed += 1
        elif found.command[1] == "-m":
            assert found.command[2] in ("pytest", "pip") or (ROOT / f"{found.command[2].replace('.', '/')}.py").exists()
    assert parsed == len(gpu_steps.BENCHMARKS)
    assert all((ROOT / path).exists() for path in gpu_steps.TESTS)


def test_what_a_step_says(tmp_path):
    def said(name, log, *leaves):
        return gpu_steps.said(replace(step(name), leaves=leaves), log, tmp_path)

    assert said("tests-cuda", "..F\n= 1 failed, 2 passed, 3 skipped in 0.1s =\n") == "1 failed, 2 passed, 3 skipped"
    assert (
        said("tests-cuda", "t.py::a PASSED [1%]\n[gw0] [2%] FAILED t.py::b\nt.py::c PASSED\n") == "2 passed, 1 failed"
    )
    assert said("memcheck", "========= ERROR SUMMARY: 0 errors\n38 calls\n") == "ERROR SUMMARY: 0 errors"
    assert said("sample", "of it\nbackend cpu: ready\n3 calls\n\n") == "3 calls; cpu: ready"
    assert said("copy", "one\ntwo\n\n") == "two" and said("copy", "") == ""
    rows = [{"contender": "a", "status": "ok"}, {"contender": "norse", "status": "missing", "reason": "not installed"}]
    (tmp_path / "layer.json").write_text(json.dumps({"rows": rows}))
    assert said("layer", "", "layer.json") == "1 ok, 1 missing; norse: not installed"


def test_tests_are_counted_by_name_and_place():
    log = (
        "tests/t.py::test_a[cuda-cuda-x=('atan', 2.0)-3] PASSED [1%]\n"
        "tests/t.py::test_a[1-cuda-cuda] SKIPPED (no) [2%]\n"
        "[gw0] [ 2%] FAILED tests/t.py::test_a[1-bits-cuda-triton]\n[gw1] [ 3%] ERROR tests/t.py::test_b[cpu-cpu]\n"
        "=== short test summary info ===\nFAILED tests/t.py::test_a[1-bits-cuda-triton] - AssertionError\n"
    )
    counts = [(t["test"], t["place"], t["passed"], t["failed"], t["skipped"]) for t in gpu_steps.tests_in(log)]
    triton, cpu = ("test_a", "cuda-triton", 0, 1, 0), ("test_b", "cpu-cpu", 0, 1, 0)
    assert counts == [("test_a", "cuda-cuda", 1, 0, 1), triton, cpu]


def test_a_bare_checkout_needs_no_torch(tmp_path):
    """bench/gpu.py itself imports nothing that is not Python's own."""
    script = (
        "import runpy, sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "sys.argv = ['gpu.py', '--list', '--reduced']\n"
        "runpy.run_path('bench/gpu.py', run_name='__main__')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "layer" in done.stdout, done.stderr
    done = subprocess.run(
        [sys.executable, ROOT / "bench/gpu.py", "--list", "--only", "nest"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "no step 'nest'; steps: wheels, build" in done.stderr


def test_names_of_devices():
    assert gpu.slug("NVIDIA H200") == "h200" and gpu.slug("NVIDIA GeForce RTX 4090") == "geforce-rtx-4090"
