"""The GPU run: build, tests on both backends, sanitizers and benchmarks, in one command and a given time.

    python bench/gpu.py                     # from a bare checkout, with torch, Triton and nvcc
    python bench/gpu.py --only layer onm    # some steps again, beside the results that are there
    python bench/gpu.py --reduced           # all of it on a CPU, tiny: does everything run?

Each step is a process with a time limit and a log. summary.json and summary.md are saved after every step.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import gpu_steps, machine
from bench.gpu_steps import ROOT, Step
from bench.results import save

GRACE = 5  # seconds from the request to stop until a step is killed
MARKS = {"ok": "ok", "failed": "FAILED", "stopped": "STOPPED"}
SITE = ROOT / "build" / "gpu-site"  # of --wheels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=9.5, help="for all of it; default 9.5")
    parser.add_argument("--reduced", action="store_true", help="the same steps on a CPU, tiny, without the build")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these steps alone")
    parser.add_argument("--list", action="store_true", help="print the steps and leave")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first, as of the peers, for this run")
    parser.add_argument("--commit", help="what to note as the commit, where there is no .git")
    parser.add_argument("--out", type=Path, help="results folder; default bench/results/<device>, runs/gpu-reduced")


def main(arguments: list[str]) -> int:
    """Returns 0 if no step failed or was stopped, 2 without a GPU, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python bench/gpu.py", description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args(arguments)
    deadline = time.monotonic() + args.minutes * 60
    found = None if args.reduced else gpu_steps.probe()
    if isinstance(found, str):
        if not args.list:
            print(f"no GPU: {found}; --reduced runs the same steps on a CPU", file=sys.stderr)
            return 2
        found = {"name": "none", "capability": "9.0"}
    folder = args.out or (ROOT / "bench" / "results" / slug(found["name"]) if found else ROOT / "runs" / "gpu-reduced")
    folder = folder.resolve()
    sys.path.append(str(SITE))
    chosen = select(gpu_steps.steps(folder, found, args.wheels and args.wheels.resolve(), SITE), args)
    if args.list:
        for step in chosen:
            print(f"{step.name:16} {step.limit:4.0f} s  {step.missing() or ' '.join(step.command)}")
        return 0
    head = {"device": found or machine.cpu_model(), "command": " ".join(["python bench/gpu.py", *arguments])}
    head["commit"] = args.commit or machine.commit() or "unknown"  # before results make the checkout dirty
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    summary = run_all(chosen, folder, deadline, head)
    print((folder / "summary.md").read_text())
    if summary["interrupted"]:
        return 130
    return int(any(summary["steps"][step.name]["status"] in ("failed", "stopped") for step in chosen))


def slug(name: str) -> str:
    """A device's name as a folder: NVIDIA H200 -> h200."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-")


def select(steps: list[Step], args: argparse.Namespace) -> list[Step]:
    """Those asked for; SystemExit for a name that is none."""
    if unknown := set(args.only or ()) - {step.name for step in steps}:
        names = ", ".join(step.name for step in steps)
        raise SystemExit(f"no step {', '.join(map(repr, sorted(unknown)))}; steps: {names}")
    if args.only:
        return [step for step in steps if step.name in args.only]
    return [step for step in steps if not (args.reduced and step.name == "build")]


def run_all(steps: list[Step], folder: Path, deadline: float, head: dict) -> dict:
    """Run the steps one after the other until `deadline` (time.monotonic): the summary, saved after each."""
    folder.mkdir(parents=True, exist_ok=True)
    path, start = folder / "summary.json", time.monotonic()
    earlier = json.loads(path.read_text())["steps"] if path.exists() else {}
    waiting = {step.name: {"status": "not reached", "seconds": 0, "said": ""} for step in steps}
    summary = head | {"date": now(), "minutes": round((deadline - start) / 60, 2), "interrupted": False}
    summary |= {"versions": versions(), "steps": earlier | waiting}
    records = summary["steps"]
    paths = [str(ROOT), *([str(SITE)] if SITE.exists() else []), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    environment["BENCH_COMMIT"] = head["commit"]
    for step in steps:
        records[step.name]["status"] = "running"
        keep(path, summary)
        try:
            left = deadline - time.monotonic() - GRACE
            record = run_or_skip(step, folder, left, os.environ | environment | step.environment)
        except KeyboardInterrupt:
            summary["interrupted"], records[step.name]["status"] = True, "interrupted"
            break
        records[step.name] = record | {"commit": head["commit"]}
        summary["versions"] = versions()
        print(f"{time.monotonic() - start:6.0f} s  {line(step.name, record)}", flush=True)
    keep(path, summary)
    return summary


def run_or_skip(step: Step, folder: Path, left: float, environment: dict[str, str]) -> dict:
    """A step's record: run, or why not."""
    if why := step.missing():
        return {"status": "not run", "seconds": 0, "said": why}
    if left < step.least:
        return {"status": "skipped", "seconds": 0, "said": f"no time: {max(left, 0):.0f} s left"}
    record = {"at": now(), "command": list(step.command)}
    before = gpu_steps.clocks() if step.timed else None
    for name in step.leaves:
        (folder / name).unlink(missing_ok=True)  # of an earlier run
    start, log, limit = time.monotonic(), folder / f"{step.name}.log", min(step.limit, left)
    code = run(step.command, log, limit, environment)
    record |= {"status": {0: "ok", None: "stopped"}.get(code, "failed"), "seconds": round(time.monotonic() - start, 1)}
    found = gpu_steps.said(step, log.read_text(errors="replace"), folder)
    record |= {"code": code, "said": found if code is not None else f"stopped after {limit:.0f} s; {found}"}
    record |= {"log": log.name, "leaves": [name for name in step.leaves if (folder / name).exists()]}
    return record | ({"clocks": [before, gpu_steps.clocks()]} if before else {})


def run(command: tuple[str, ...], log: Path, seconds: float, environment: dict[str, str]) -> int | None:
    """A command's exit status, None if its time ran out. Whatever it started ends with it."""
    with log.open("wb") as file:
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """Ask the process group to stop, as Ctrl-C does; kill what is left of it."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def keep(path: Path, summary: dict) -> None:
    """Save the summary, and its table beside it."""
    save(path, summary)
    path.with_suffix(".md").write_text(table(summary))


def table(summary: dict) -> str:
    """Markdown: where the run was made, then a row for each step."""
    device, named = summary["device"], summary["versions"]
    device = device if isinstance(device, str) else ", ".join(f"{key} {value}" for key, value in device.items())
    absent = [name for name in gpu_steps.PEERS if not named.get(name)]
    lines = ["# GPU run", "", device, "", ", ".join(f"{name} {number}" for name, number in named.items() if number), ""]
    lines += [f"Not installed: {', '.join(absent)}.", ""] if absent else []
    lines += [f"commit {summary['commit']}, {summary['date']}, `{summary['command']}`", ""]
    lines += ["Interrupted.", ""] if summary["interrupted"] else []
    lines += [
        "| step | outcome | seconds | found | clocks before, after (SM MHz) | files |",
        "|---|---|---|---|---|---|",
    ]
    for name, record in summary["steps"].items():
        read_clocks = [str((reading or {}).get("clocks.sm", "?")) for reading in record.get("clocks", ())]
        files = [*record.get("leaves", ()), *([record["log"]] if "log" in record else [])]
        cells = [name, MARKS.get(record["status"], record["status"]), f"{record['seconds']:.0f}"]
        cells += [record["said"].replace("|", "\\|"), ", ".join(read_clocks), " ".join(f"[{f}]({f})" for f in files)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def line(name: str, record: dict) -> str:
    said = record["said"]
    return f"{name:16} {MARKS.get(record['status'], record['status']):8} {said[:100]}{'…' * (len(said) > 100)}"


def versions() -> dict:
    return {"python": sys.version.split()[0]} | {name: machine.version(name) for name in machine.PACKAGES}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
