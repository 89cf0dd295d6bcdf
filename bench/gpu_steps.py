"""The steps of the GPU run: their commands, time limits and what they leave; and what of it is missing here."""

import importlib
import json
import os
import re
import shlex
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
HUGE = "more_elements"  # these tests take tens of GiB each: one at a time
SANE = "tests and sanitizers"  # side by side
COMPILED = 'compile "fastlif compiled" "spikingjelly compiled"'
SLOW = f'--without {COMPILED} "spikingjelly half" "spikingjelly memopt"'  # of networks: minutes of compiling, of search
BESIDE_COMPILE = '"compile triangle" "fastlif triangle" "fastlif rectangle"'
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
    device's clocks are read before and after. Neighbours of the same `group` run side by side. `makes`: what it leaves
    elsewhere, without which it is to be done again.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    leaves: tuple[str, ...] = ()
    missing: Callable[[], str | None] = lambda: None
    least: float = 10
    timed: bool = False
    group: str = ""
    makes: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def python(*arguments: str | Path) -> tuple[str, ...]:
    """Run in ROOT: paths below it are relative, so that results say the same wherever the checkout is."""

    def shown(word: str | Path) -> str:
        inside = isinstance(word, Path) and word.is_relative_to(ROOT)
        return str(word.relative_to(ROOT) if inside else word)

    return (sys.executable, *map(shown, arguments))


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
    copied = " --mib 16" if reduced else ""
    return [
        *prepared(device, wheels, site),
        Step("sample", python("-m", "bench.gpu_sample", "--device", kind, *(() if reduced else ("--few",))), 60),
        *([tests("cpu", 60)] if reduced else [tests("cuda", 100), tests("triton", 160)]),
        *(sanitized(tool, reduced) for tool in ("memcheck", "racecheck", "initcheck")),
        *([] if reduced else [tests("huge", 75)]),
        Step(
            "copy",
            python("-m", "bench.gpu_copy", "--device", kind, *copied.split(), "--out", folder / "copy.json"),
            30,
            ("copy.json",),
            timed=True,
        ),
        *(benchmark(name, folder, kind, *row[reduced]) for name, row in BENCHMARKS.items()),
    ]


def prepared(device: dict | None, wheels: Path | None, site: Path) -> list[Step]:
    """What is installed and built; nothing for the reduced run."""
    if device is None:
        return []
    found, sources = (sorted(wheels.glob(f)) if wheels else [] for f in ("*.whl", "spikingjelly-*.tar.gz"))
    lacking = "nothing of it in --wheels" if wheels else "no --wheels FOLDER"
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--upgrade", "--target")
    peer = ("-m", "bench.gpu_peer", *sources[:1], "--archs", device["capability"], "--out", site.parent / "gpu-peer")
    arch = device["capability"].replace(".", "")
    return [
        Step("wheels", python(*pip, site, *found), 60, missing=lambda: None if found else lacking, makes=(site,)),
        Step(
            "build",
            python("setup.py", "build_ext", "--inplace"),
            200,
            missing=needs("torch", "setuptools"),
            group="build",
            makes=(ROOT / "fastlif" / "_C.abi3.so",),
            environment={"FASTLIF_CUDA": "1", "FASTLIF_CUDA_ARCHS": arch},
        ),
        Step(
            "spikingjelly",
            python(*peer, "--install", site),
            200,
            missing=lambda: None if sources else lacking,
            group="build",
            makes=(site,),
        ),
    ]


def tests(part: str, limit: float) -> Step:
    """Tests of one backend against the reference on the CPU, bit for bit, spread over the cores; or the huge ones."""
    if part == "cpu":
        chosen = ("cpu-cpu and (hard_reset or threads or gpu_equal)",)
    elif part == "huge":
        chosen = (HUGE,)
    else:
        chosen = (f"cuda-{part} and not {HUGE}",)
        cores = os.cpu_count() or 1
        count = max(cores * 3 // 4 if part == "triton" else cores // 4, 1)  # Triton's compiles
        chosen += ("-n", str(count), "--dist", "worksteal") if find_spec("xdist") else ()
        chosen += ("-p", "bench.gpu_examples", "--hypothesis-profile", "few") if part == "triton" else ()
    command = python("-m", "pytest", "-vv", "--tb=short", *TESTS, "-k", *chosen)  # a stopped run names what failed, too
    group = SANE if part in ("cuda", "triton") else ""
    own = {"OMP_NUM_THREADS": "1"}  # or every process's reference runs on all cores
    needed = needs("pytest", "hypothesis")
    return Step(f"tests-{part}", command, limit, missing=needed, group=group, environment=own)


def sanitized(tool: str, reduced: bool) -> Step:
    """compute-sanitizer over the sample; initcheck for the compiled kernels alone."""
    backends = ("cuda",) if tool == "initcheck" else ("cuda", "triton")
    program = sanitizer()
    missing = "needs a GPU" if reduced else None if program else "no compute-sanitizer"
    sample = python("-m", "bench.gpu_sample", "--device", "cuda", "--few", "--backends", *backends)
    command = (program or "compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *sample)
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return Step(tool, command, 100, missing=lambda: missing, group=SANE, environment=uncached)


NETWORK = "--batch 32 --repeats 10"
QUICK = "--quick --no-peak"
BENCHMARKS = {  # by importance: seconds at most and settings on a GPU, and of the reduced run, which shows that it runs
    "layer": (
        (120, "--steps 16 --neurons 16777216 --repeats 20 --without compile"),
        (90, "--quick --without compile"),
    ),
    "layer-steps": (
        (
            110,
            "--steps 4 128 --neurons 16777216 --repeats 10 --no-forward --contenders "
            '"fastlif cuda" "fastlif triton" kernel "spikingjelly cuda" "spikingjelly triton" "naive triangle"',
        ),
        (60, "--quick --no-forward --steps 2 6 --contenders kernel"),
    ),
    "batch_norm": (
        (100, "--shape 16 64 64 64 64 --dtype float32 bfloat16 --repeats 15"),
        (60, "--shape 3 2 4 8 8 --dtype float32 bfloat16 --repeats 3"),
    ),
    "network": ((110, f"{NETWORK} --amp none bfloat16 {SLOW}"), (90, f"{QUICK} --amp none bfloat16 {SLOW}")),
    "overhead": ((50, "--repeats 300"), (60, "--repeats 20")),
    "network-memopt": (
        (150, f'{NETWORK} --amp none bfloat16 --contenders "spikingjelly memopt" "fastlif recompute"'),
        (60, f'{QUICK} --amp none bfloat16 --contenders "spikingjelly memopt" "fastlif recompute"'),
    ),
    "layer-compile": (
        (130, f"--steps 4 16 --neurons 16777216 --repeats 15 --no-forward --contenders {BESIDE_COMPILE}"),
        (200, '--quick --reset soft --no-forward --contenders "compile triangle"'),
    ),
    "onm": ((75, f"--n 4096 16384 --repeats 5 {SLOW}"), (60, f"{QUICK} {SLOW}")),
    "layer-compile-long": (
        (
            170,
            "--steps 128 --neurons 1048576 --dtype float32 --reset soft --repeats 15 --no-forward "
            f"--contenders {BESIDE_COMPILE}",
        ),
        (60, '--quick --steps 8 --reset soft --no-forward --contenders "fastlif triangle"'),
    ),
    "network-compile": (
        (170, f'{NETWORK} --contenders {COMPILED} naive "fastlif LIF" "fastlif batch norm"'),
        (200, f'{QUICK} --contenders naive "fastlif compiled"'),
    ),
}


def benchmark(name: str, folder: Path, kind: str, limit: float, settings: str) -> Step:
    """A part of `python -m bench`: its name up to the first "-"."""
    options = ("--device", kind, *shlex.split(settings), "--out", folder / f"{name}.json")
    plot = (f"{name}.png",) if name.split("-")[0] in ("layer", "network", "onm") else ()
    return Step(
        name,
        python("-m", "bench", name.split("-")[0], *options),
        limit,
        (f"{name}.json", f"{name}.md", *plot),
        needs("tqdm", "matplotlib"),
        20 if kind == "cuda" else 0,
        timed=True,
    )


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


def tests_in(log: str) -> list[dict]:
    """What became of the tests in pytest's log, counted by name and by place, device and backend."""
    counts: dict[tuple[str, str], Counter] = {}
    for line in log.split("short test summary info")[0].splitlines():
        name, place = (
            re.search(r"::(test_\w+)", line),
            re.search(r"\b(?:cpu|cuda)-(?:reference|cpu|cuda|triton)\b", line),
        )
        if name and place and (outcome := re.search(r"\b(PASSED|FAILED|SKIPPED|ERROR)\b", line)):
            counts.setdefault((name[1], place[0]), Counter())[outcome[1]] += 1
    return [
        {
            "test": test,
            "place": place,
            "passed": n["PASSED"],
            "failed": n["FAILED"] + n["ERROR"],
            "skipped": n["SKIPPED"],
        }
        for (test, place), n in counts.items()
    ]


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
    if step.name == "sample" and lines:
        backends = [line.removeprefix("backend ") for line in lines if line.startswith("backend ")]
        return "; ".join([lines[-1], *backends])
    results = [folder / name for name in step.leaves if name.endswith(".json") and step.name != "copy"]
    if results and results[0].exists():
        rows = json.loads(results[0].read_text())["rows"]
        counts = Counter(row.get("status", "measured") for row in rows)
        why = dict.fromkeys(f"{row['contender']}: {row['reason']}" for row in rows if "reason" in row)
        return "; ".join([", ".join(f"{n} {status}" for status, n in counts.items()), *why])
    return lines[-1] if lines else ""
