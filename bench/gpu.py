"""The GPU run: build, tests on both backends, sanitizers and benchmarks, in one command and a given time.

    python bench/gpu.py                     # from a bare checkout, with torch, Triton and nvcc
    python bench/gpu.py --rest              # goes on: what has not run, was stopped, failed, or has to be built again
    python bench/gpu.py --only layer onm    # some steps again, beside the results that are there
    python bench/gpu.py --reduced           # all of it on a CPU, tiny: does everything run?

Each step is a process with a time limit and a log; they come by their importance for the targets (bench/targets.py).
After every step summary.json, summary.md and targets.md are saved, and in the end the README's section is made of them.

The peers come as wheels, for a machine without network, and go into a folder of this run (--wheels):

    pip wheel --no-deps -w wheels 'spikingjelly==2.0.*' 'snntorch==1.0.*' 'norse==1.1.*' 'nirtorch==2.*' nir loguru

beside numpy, scipy, matplotlib, tqdm and h5py; the tests want pytest, hypothesis and, to be quick, pytest-xdist. That
wheel of SpikingJelly has its Triton kernels alone. Its native ones are built where its source lies in that folder

    pip download --no-deps --no-binary :all: -d wheels 'spikingjelly==2.0.*'

which takes a core some two minutes; or beforehand, by bench/gpu_peer.py, as a wheel in the place of the other.
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
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import gpu_steps, machine, readme, targets
from bench.gpu_steps import ROOT, Step
from bench.results import save

GRACE = 5  # seconds from the request to stop until a step is killed
MARKS = {"ok": "ok", "failed": "FAILED", "stopped": "STOPPED"}
SITE = ROOT / "build" / "gpu-site"  # of --wheels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=9.5, help="for all of it; default 9.5")
    parser.add_argument("--reduced", action="store_true", help="the same steps on a CPU, tiny, without the build")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these steps alone")
    parser.add_argument("--without", nargs="+", metavar="NAME", help="not these, as build where it was made beforehand")
    parser.add_argument("--rest", action="store_true", help="steps alone that are not ok in the results of this commit")
    parser.add_argument("--list", action="store_true", help="print the steps and leave")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, as of the peers, to install first for this run")
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
    head = {"device": found or machine.cpu_model(), "command": " ".join(["python bench/gpu.py", *arguments])}
    head["commit"] = args.commit or machine.commit() or "unknown"
    if args.rest:
        chosen = left_of(chosen, folder, head)
    if args.list:
        for step in chosen:
            print(f"{step.name:18} {step.limit:4.0f} s  {step.missing() or ' '.join(step.command)}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    summary = run_all(chosen, folder, deadline, head)
    (folder / "readme.md").write_text(readme.of_device(folder, Path(".")))
    if folder.parent == readme.RESULTS:
        readme.write()
    print((folder / "summary.md").read_text(), (folder / "targets.md").read_text(), sep="\n")
    if summary["interrupted"]:
        return 130
    return int(any(summary["steps"][step.name]["status"] in ("failed", "stopped") for step in chosen))


def slug(name: str) -> str:
    """A device's name as a folder: NVIDIA H200 -> h200."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-")


def select(steps: list[Step], args: argparse.Namespace) -> list[Step]:
    """Those asked for; SystemExit for a name that is none."""
    if unknown := {*(args.only or ()), *(args.without or ())} - {step.name for step in steps}:
        names = ", ".join(step.name for step in steps)
        raise SystemExit(f"no step {', '.join(map(repr, sorted(unknown)))}; steps: {names}")
    return [s for s in steps if (not args.only or s.name in args.only) and s.name not in (args.without or ())]


def left_of(steps: list[Step], folder: Path, head: dict) -> list[Step]:
    """Those that an earlier run of this commit on such a device has not left ok, with all that they make."""
    path = folder / "summary.json"
    if not path.exists():
        raise SystemExit(f"--rest: no {path} to go on from")
    earlier = json.loads(path.read_text())
    for key in ("commit", "device"):
        if earlier[key] != head[key]:
            raise SystemExit(f"--rest: {path} is of {key} {earlier[key]}, this is {head[key]}")

    def done(step: Step) -> bool:
        record = earlier["steps"].get(step.name, {})
        made = (*(folder / name for name in step.leaves), *step.makes)
        return (record.get("status"), record.get("commit")) == ("ok", head["commit"]) and all(p.exists() for p in made)

    return [step for step in steps if not done(step)]


def run_all(steps: list[Step], folder: Path, deadline: float, head: dict) -> dict:
    """Run the steps one after the other until `deadline` (time.monotonic): the summary, saved after each."""
    folder.mkdir(parents=True, exist_ok=True)
    path, start = folder / "summary.json", time.monotonic()
    earlier = json.loads(path.read_text())["steps"] if path.exists() else {}
    waiting = {step.name: {"status": "not reached", "seconds": 0, "said": ""} for step in steps}
    summary = head | {"date": now(), "minutes": round((deadline - start) / 60, 2), "interrupted": False}
    summary |= {"versions": versions(), "steps": earlier | waiting}
    records = summary["steps"]
    paths = [str(ROOT), str(SITE), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    environment["BENCH_COMMIT"] = head["commit"]
    for _, group in groupby(steps, key=lambda step: step.group or step.name):
        group = list(group)
        for step in group:
            records[step.name]["status"] = "running"
        keep(path, summary)
        try:
            left = deadline - time.monotonic() - GRACE
            done = run_or_skip(group, folder, left, os.environ | environment)
        except KeyboardInterrupt:
            summary["interrupted"] = True
            records |= {step.name: records[step.name] | {"status": "interrupted"} for step in group}
            break
        records |= {name: record | {"commit": head["commit"]} for name, record in done.items()}
        summary["versions"] = versions()
        for name, record in done.items():
            print(f"{time.monotonic() - start:6.0f} s  {line(name, record)}", flush=True)
    keep(path, summary)
    return summary


def run_or_skip(group: list[Step], folder: Path, left: float, environment: dict[str, str]) -> dict[str, dict]:
    """The records of steps that run side by side: run, or why not."""
    records, jobs = {}, []
    before = gpu_steps.clocks() if any(step.timed for step in group) else None
    for step in group:
        if why := step.missing():
            records[step.name] = {"status": "not run", "seconds": 0, "said": why}
        elif left < step.least:
            records[step.name] = {"status": "skipped", "seconds": 0, "said": f"no time: {max(left, 0):.0f} s left"}
        else:
            records[step.name] = {"at": now(), "command": [Path(step.command[0]).name, *step.command[1:]]}
            for name in step.leaves:
                (folder / name).unlink(missing_ok=True)  # of an earlier run
            limit, log = min(step.limit, left), folder / f"{step.name}.log"
            jobs.append(Job(step, log, limit, environment | step.environment))
    for job in run(jobs):
        step, record, log = job.step, records[job.step.name], job.log.read_text(errors="replace")
        record |= {"status": {0: "ok", None: "stopped"}.get(job.code, "failed"), "seconds": round(job.seconds, 1)}
        said = gpu_steps.said(step, log, folder)
        record |= {"code": job.code, "log": job.log.name}
        record["said"] = said if job.code is not None else f"stopped after {job.limit:.0f} s; {said}"
        record["leaves"] = [name for name in step.leaves if (folder / name).exists()]
        record |= {"tests": gpu_steps.tests_in(log)} if step.name.startswith("tests") else {}
        record |= {"clocks": [before, gpu_steps.clocks()]} if step.timed and before else {}
    return records


@dataclass
class Job:
    """A step's process: exit status, None if its time ran out, and the seconds that it took."""

    step: Step
    log: Path
    limit: float
    environment: dict[str, str]
    code: int | None = None
    seconds: float = 0


def run(jobs: list[Job]) -> list[Job]:
    """Run them side by side. Whatever they started ends with them."""
    with contextlib.ExitStack() as stack:
        start, processes = time.monotonic(), []
        for job in jobs:
            streams = {"stdin": subprocess.DEVNULL, "stdout": stack.enter_context(job.log.open("wb"))}
            streams["stderr"] = subprocess.STDOUT
            process = subprocess.Popen(
                job.step.command, cwd=ROOT, env=job.environment, start_new_session=True, **streams
            )
            stack.callback(end, process)
            processes.append(process)
        for job, process in zip(jobs, processes, strict=True):
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.code = process.wait(max(start + job.limit - time.monotonic(), 0))
            end(process)
            job.seconds = time.monotonic() - start
    return jobs


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
    """Save the summary, its table, and which targets are met."""
    save(path, summary)
    path.with_suffix(".md").write_text(table(summary))
    targets.write(path.parent)


def table(summary: dict) -> str:
    """Markdown: where the run was made, then a row for each step."""
    device, named = summary["device"], summary["versions"]
    device = device if isinstance(device, str) else ", ".join(f"{key} {value}" for key, value in device.items())
    absent = [name for name in gpu_steps.PEERS if not named.get(name)]
    lines = ["# GPU run", "", device, "", ", ".join(f"{name} {number}" for name, number in named.items() if number), ""]
    lines += [f"Not installed: {', '.join(absent)}.", ""] if absent else []
    lines += [f"commit {summary['commit']}, {summary['date']}, `{summary['command']}`", ""]
    lines += ["Interrupted.", ""] if summary["interrupted"] else []
    lines += ["[Targets](targets.md): which of them this meets.", ""]
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
    return f"{name:18} {MARKS.get(record['status'], record['status']):8} {said[:100]}{'…' * (len(said) > 100)}"


def versions() -> dict:
    return {"python": sys.version.split()[0]} | {name: machine.version(name) for name in machine.PACKAGES}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
