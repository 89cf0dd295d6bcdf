"""The layer benchmark: one LIF layer; every contender is checked for equal results, then timed alternating."""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from . import machine, peak
from .case import Case
from .check import compare, reference
from .contenders import TABLE, Contender, select
from .report import write_report
from .results import failure, save
from .timing import alternate

MILLION = 1 << 20
FULL = {"steps": [4, 8, 16, 32, 128], "neurons": [1 << 16, MILLION, 4 * MILLION, 16 * MILLION]}
USUAL = {"cpu": {"steps": [16], "neurons": [MILLION]}, "cuda": {"steps": [16], "neurons": [MILLION, 16 * MILLION]}}
QUICK = {"steps": [4], "neurons": [1 << 14], "dtype": ["float32"]}
BYTES_OF_PLAIN_CODE = 64  # per neuron-step: what the hungriest contender takes at its peak


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--steps", "-T", type=int, nargs="+", help="default: 16")
    parser.add_argument("--neurons", type=int, nargs="+", help="default: 1 M on a CPU, 1 M and 16 M on a GPU")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--reset", nargs="+", choices=("soft", "hard"))
    parser.add_argument(
        "--full", action="store_true", help="every T and size of the design, which takes hours on a CPU"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, 3 repetitions: does everything run?")
    parser.add_argument("--repeats", type=int, help="repetitions after the warm-up; default 30")
    parser.add_argument("--contenders", nargs="+", help="groups or names; default all")
    parser.add_argument("--without", nargs="+", help="groups or names to leave out")
    parser.add_argument(
        "--peak", action="store_true", help="on a CPU, also each contender's peak memory, in a process of its own"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default bench/results/layer-<device>.json")


def cases(args: argparse.Namespace, device: str) -> list[Case]:
    """The workloads asked for: the product of the lists."""
    usual = {"dtype": ["float32", "bfloat16"], "reset": ["soft", "hard"], **USUAL[device]}
    usual |= FULL if args.full else QUICK if args.quick else {}
    lists = [getattr(args, name) or usual[name] for name in ("steps", "neurons", "dtype", "reset")]
    return [Case(*values, device) for values in itertools.product(*lists)]


def main(args: argparse.Namespace, command: list[str]) -> int:
    """Run, save the JSON, and make table and plot from it. Returns 1 if one of fastlif's own rows failed, else 0."""
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    machine.warn_if_busy()
    head = machine.describe(command) | {"benchmark": "layer"}
    repeats = args.repeats or (3 if args.quick else 30)
    contenders = select(device, args.contenders, args.without)
    out = args.out or Path(__file__).parent / "results" / f"layer-{device}.json"
    rows = []
    for case in (bar := tqdm(cases(args, device), desc="workloads", file=sys.stderr)):
        bar.set_postfix_str(case.title)
        rows += run_case(case, contenders, repeats, args.peak)
        save(out, head | {"rows": rows})  # whatever stops it, what was done is there
        report = write_report(out)
    print(report)
    broken = [r for r in rows if r["group"] in ("fastlif", "kernel") and r["status"] in ("failed", "refused")]
    return 1 if broken else 0


def starter(case: dict, contender: str) -> Callable[[], Callable]:
    """What `bench peak` runs: () -> forward + backward of a freshly built contender, on data that are there already."""
    workload = Case(**case)
    (row,) = (c for c in TABLE if c.name == contender)
    x, gs = workload.inputs()
    return lambda: row.build(workload, x, gs).both


def run_case(case: Case, contenders: list[Contender], repeats: int, with_peak: bool = False) -> list[dict]:
    """One workload: a row for the copy and one for each contender, timed or with the reason why not."""
    rows = {c.name: start_row(case, c) for c in contenders}
    ready = [c for c in contenders if rows[c.name]["status"] == "ok"]
    kernels = sum(c.group == "kernel" for c in ready)
    needed = case.neuron_steps * BYTES_OF_PLAIN_CODE + case.tensor_bytes * 3 * kernels
    if needed > machine.available_bytes(case.device):
        for row in rows.values():
            row |= {"status": "not run", "reason": f"needs about {needed / 2**30:.0f} GiB of memory"}
        return list(rows.values())
    torch._dynamo.reset()
    x, gs = case.inputs()
    runs = check(ready, case, x, gs, rows)
    memory = [torch.empty_like(x) for _ in range(2)]

    def one_copy():
        memory[0].copy_(x)

    def two_copies():
        memory[0].copy_(x)
        memory[1].copy_(gs)

    copy = {"case": case.as_dict(), "contender": "copy", "group": "copy", "status": "ok", "moved_bytes": 4 * x.itemsize}
    copy |= {"note": "two copies of x, and one: the floor"}
    for direction, copies in (("both", two_copies), ("forward", one_copy)):
        calls = {"copy": copies} | {name: getattr(run, direction) for name, run in runs.items()}
        rounds = tqdm(range(repeats), desc=direction, leave=False, file=sys.stderr)
        for name, times in alternate(calls, case.device, rounds, ahead=True).items():
            (copy if name == "copy" else rows[name])[direction] = times
    if case.device == "cpu" and with_peak:
        for name in tqdm(runs, desc="peak memory", leave=False, file=sys.stderr):
            rows[name]["peak_bytes"] = peak.of_fresh_process("layer", case.as_dict(), name)
    return [copy, *rows.values()]


def start_row(case: Case, contender: Contender) -> dict:
    """A contender's row before anything ran."""
    row = {"case": case.as_dict(), "contender": contender.name, "group": contender.group, "status": "ok", "note": ""}
    if why := contender.missing(case):
        return row | {"status": "not available", "reason": why}
    return row | {"note": contender.note(case), "moved_bytes": contender.moves(case)}


def check(contenders: list[Contender], case: Case, x: torch.Tensor, gs: torch.Tensor, rows: dict[str, dict]) -> dict:
    """Build contenders, compare their results with the reference's, measure memory: {name: what may be timed}."""

    def neuron(contender: Contender) -> str:
        return repr(sorted(contender.form(case).items()))

    runs = {}
    for _, group in itertools.groupby(sorted(contenders, key=neuron), key=neuron):
        group = list(group)
        expected = reference(group[0].form(case), x, gs)
        for contender in tqdm(group, desc="checks", leave=False, file=sys.stderr):
            row = rows[contender.name]
            try:
                run = contender.build(case, x, gs)
                difference = compare(run.both(), expected)
                row |= {"flips": difference.flips, "gradient_error": difference.gradient}
                if why := difference.refusal(contender.tolerance, case.torch_dtype):
                    row |= {"status": "refused", "reason": why}
                    continue
                row["kept_bytes"] = run.kept_bytes
                row["peak_bytes"] = peak.of_device(run.both) if case.device == "cuda" else None
                row["page_faults"] = faults(run.both)
                runs[contender.name] = run
            except Exception as error:  # a contender's fault, whatever it is, is a result to report
                row |= failure(error)
    return {name: runs[name] for name in rows if name in runs}


def faults(call) -> int:
    """Fresh pages that a call still touches after a warm-up."""
    call()
    before = machine.page_faults()
    call()
    return machine.page_faults() - before
