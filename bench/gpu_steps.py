"""The steps of the GPU run: their commands, time limits and what they leave; and what of it is missing here."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("spikingjelly", "snntorch", "norse")
TESTS = ("tests/test_backends.py", "tests/test_gpu_equal.py")
SLOW = ("--without", "compile")  # what torch.compile takes minutes for comes last, in steps of its own
SLOW_NETS = (*SLOW, "fastlif compiled", "spikingjelly memopt")
PROBE = """
import json, torch
p = torch.cuda.get_device_properties(0)
print(json.dumps({"name": p.name, "capability": f"{p.major}.{p.minor}", "memory": p.total_memory,
                  "multiprocessors": p.multi_processor_count, "cuda": torch.version.cuda}))
"""
CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw"


@dataclass(frozen=True)
class Step:
    """A command with a time limit in seconds. `leaves`: its files in the results folder.

    `missing()` says why it cannot run, or None. With less than `least` seconds left it is not started. `timed`: the
    device's clocks are read before and after.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    leaves: tuple[str, ...] = ()
    missing: Callable[[], str | None] = lambda: None
    least: float = 10
    timed: bool = False
    environment: dict[str, str] = field(default_factory=dict)


def python(*arguments: str | Path) -> tuple[str, ...]:
    return (sys.executable, *map(str, arguments))


def needs(*modules: str) -> Callable[[], str | None]:
    """A `Step.missing`: which of these modules cannot be imported here."""

    def missing() -> str | None:
        importlib.invalidate_caches()  # an earlier step may have installed them
        absent = [name for name in modules if find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    return missing


def sanitizer() -> str | None:
    """compute-sanitizer, of CUDA or of a wheel."""
    homes = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), Path("/usr/local/cuda")]
    places = [home / part for home in homes for part in ("bin", "compute-sanitizer")]
    packaged = [path.parent for path in Path(sysconfig.get_path("purelib"), "nvidia").glob("**/compute-sanitizer")]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(map(str, (os.environ["PATH"], *places, *packaged))))


def steps(folder: Path, device: dict | None, wheels: Path | None, site: Path) -> list[Step]:
    """All steps in their order; `device` is what PROBE tells, None for the reduced run on a CPU."""
    reduced = device is None
    kind = "cpu" if reduced else "cuda"
    found = sorted(wheels.glob("*.whl")) if wheels else []
    why = f"no wheels in {wheels}" if wheels else "no --wheels FOLDER"
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--upgrade", "--target")
    cuda = "0" if reduced else "1"
    archs = {} if reduced else {"FASTLIF_CUDA_ARCHS": device["capability"].replace(".", "")}
    return [
        Step("wheels", python(*pip, site, *found), 90, missing=lambda: None if found else why),
        Step(
            "build",
            python("setup.py", "build_ext", "--inplace"),
            600 if reduced else 200,
            missing=needs("torch", "setuptools"),
            environment={"FASTLIF_CUDA": cuda, **archs},
        ),
        Step("info", python("-m", "fastlif", "info"), 40),
        Step("sample", python("-m", "bench.gpu_sample", "--device", kind), 60),
        *([tests("cpu", 60)] if reduced else [tests("cuda", 90), tests("triton", 110)]),
        *(sanitized(tool, reduced) for tool in ("memcheck", "racecheck", "initcheck")),
        Step(
            "copy",
            python("-m", "bench.gpu_copy", "--device", kind, *(("--mib", "16") if reduced else ()))
            + out(folder, "copy"),
            30,
            ("copy.json",),
            timed=True,
        ),
        *benchmarks(folder, kind, reduced),
    ]


def tests(backend: str, limit: float) -> Step:
    """The tests of one backend against the reference on the CPU, bit for bit, spread over the cores."""
    if backend == "cpu":
        chosen = ("cpu-cpu and (hard_reset or threads or gpu_equal)",)
    else:
        chosen = (f"cuda-{backend}", *(("-n", str(min(12, os.cpu_count() or 1))) if find_spec("xdist") else ()))
    command = python("-m", "pytest", "-vv", "--tb=short", *TESTS, "-k", *chosen)  # a stopped run names what failed, too
    own = {"OMP_NUM_THREADS": "1"}  # or every process's reference runs on all cores
    return Step(f"tests-{backend}", command, limit, missing=needs("pytest", "hypothesis"), environment=own)


def sanitized(tool: str, reduced: bool) -> Step:
    """compute-sanitizer over the sample; initcheck for the compiled kernels alone."""
    backends = ("cuda",) if tool == "initcheck" else ("cuda", "triton")
    program = sanitizer()
    missing = "needs a GPU" if reduced else None if program else "no compute-sanitizer"
    sample = python("-m", "bench.gpu_sample", "--device", "cuda", "--few", "--backends", *backends)
    command = (program or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *sample)
    return Step(tool, command, 70, missing=lambda: missing, environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})


def out(folder: Path, name: str) -> tuple[str, ...]:
    return ("--out", str(folder / f"{name}.json"))


def benchmarks(folder: Path, kind: str, reduced: bool) -> list[Step]:
    """The parts of `python -m bench` with short settings; `reduced` ones only show that they run."""

    def part(name: str, limit: float, settings: str, *more: str, plot: bool = True, least: float = 20) -> Step:
        command = python("-m", "bench", name.split("-")[0], "--device", kind, *settings.split(), *more)
        leaves = (f"{name}.json", f"{name}.md", *((f"{name}.png",) if plot else ()))
        missing = needs("tqdm", "matplotlib")
        return Step(name, command + out(folder, name), limit, leaves, missing, 0 if reduced else least, timed=True)

    fused = ("naive", "compile", "fastlif rectangle", "fastlif triangle")
    nets = ("naive", "compile", "fastlif LIF", "fastlif batch norm", "fastlif compiled")
    if reduced:
        fused, nets = ("naive", "compile triangle"), ("naive", "fastlif compiled")
        quick = "--quick --no-peak"
        return [
            part("layer", 90, "--quick", *SLOW),
            part("network", 90, quick, *SLOW_NETS),
            part("onm", 60, quick, *SLOW_NETS),
            part("batch_norm", 60, "--shape 3 2 4 8 8 --repeats 3", plot=False),
            part("overhead", 60, "--repeats 20", plot=False),
            part("layer-compile", 240, "--quick --reset soft --contenders", *fused),
            part("network-compile", 240, f"{quick} --contenders", *nets),
        ]
    return [
        part("layer", 120, "--neurons 16777216 1048576 --repeats 20", *SLOW),
        part("network", 90, "--batch 32 --repeats 10", *SLOW_NETS),
        part("onm", 75, "--repeats 5", *SLOW_NETS),
        part("batch_norm", 40, "--shape 16 16 64 64 64", plot=False),
        part("overhead", 30, "--repeats 1000", plot=False),
        part("layer-compile", 100, "--neurons 16777216 --dtype float32 --repeats 20 --contenders", *fused, least=40),
        part("network-compile", 150, "--batch 32 --repeats 10 --contenders", *nets, least=60),
    ]


def probe() -> dict | str:
    """The GPU as torch sees it, or why there is none."""
    try:
        done = subprocess.run(python("-c", PROBE), capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "torch did not answer within 120 s"
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else last


def clocks() -> dict | None:
    """Clocks in MHz, temperature and power; None where nvidia-smi does not tell."""
    query = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(CLOCKS.split(","), done.stdout.strip().split(", "), strict=False))


def said(step: Step, log: str, folder: Path) -> str:
    """What a step found, in a line: tests counted, the sanitizer's sum, rows by status, or its log's last line."""
    if log.rstrip().endswith("KeyboardInterrupt"):  # what Python says when it is asked to stop
        log = log[: log.rfind("Traceback (most recent call last)")]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if step.name.startswith("tests"):
        if found := re.findall(r"\d+ (?:passed|failed|skipped|errors?)\b", lines[-1] if lines else ""):
            return ", ".join(found)
        counts = Counter(re.findall(r"^.*?\b(PASSED|FAILED|SKIPPED|ERROR)\b", log, re.M))
        if counts:
            return ", ".join(f"{n} {word.lower()}" for word, n in counts.items())
    if found := [line for line in lines if re.search(r"(ERROR|RACECHECK) SUMMARY", line)]:
        return found[-1].strip("= ")
    if step.name == "info" and (found := [line for line in lines if line.startswith("backend ")]):
        return "; ".join(line.removeprefix("backend ") for line in found)
    results = [folder / name for name in step.leaves if name.endswith(".json") and step.name != "copy"]
    if results and results[0].exists():
        rows = json.loads(results[0].read_text())["rows"]
        counts = Counter(row.get("status", "measured") for row in rows)
        why = dict.fromkeys(f"{row['contender']}: {row['reason']}" for row in rows if "reason" in row)
        return "; ".join([", ".join(f"{n} {status}" for status, n in counts.items()), *why])
    return lines[-1] if lines else ""
