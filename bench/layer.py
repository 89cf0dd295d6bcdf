"""The layer benchmark: one LIF layer; every contender is checked for equal results, then timed alternating."""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from . import machine, peak
from .case import Case, Data
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
CHECKED = 1 << 28  # neuron-steps at most in a check, for which the reference is held, too


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
    parser.add_argument("--no-forward", action="store_true", help="no times of forward alone")
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
    directions = ("both",) if args.no_forward else ("both", "forward")
    rows = []
    try:
        for case in (bar := tqdm(cases(args, device), desc="workloads", file=sys.stderr)):
            bar.set_postfix_str(case.title)
            rows += run_case(case, contenders, repeats, args.peak, directions)
            save(out, head | {"rows": rows})  # whatever stops it, what was done is there
    finally:
        if rows:
            print(write_report(out))
    broken = [r for r in rows if r["group"] in ("fastlif", "kernel") and r["status"] in ("failed", "refused")]
    return 1 if broken else 0


def starter(case: dict, contender: str) -> Callable[[], Callable]:
    """What `bench peak` runs: () -> forward + backward of a freshly built contender, on data that are there already."""
    workload = Case(**case)
    (row,) = (c for c in TABLE if c.name == contender)
    data = workload.inputs()
    return lambda: row.build(workload, data).both


def run_case(
    case: Case,
    contenders: list[Contender],
    repeats: int,
    with_peak: bool = False,
    directions: tuple[str, ...] = ("both", "forward"),
) -> list[dict]:
    """One workload: a row for the copy and one for each contender, timed or with the reason why not."""
    rows = {c.name: start_row(case, c) for c in contenders}
    ready, part = [c for c in contenders if rows[c.name]["status"] == "ok"], case.part(CHECKED)
    needed = 4 * case.tensor_bytes + part.neuron_steps * BYTES_OF_PLAIN_CODE
    if needed > machine.available_bytes(case.device):
        for row in rows.values():
            row |= {"status": "not run", "reason": f"needs about {needed / 2**30:.0f} GiB of memory"}
        return list(rows.values())
    torch._dynamo.reset()
    data = part.inputs()
    runs = check(ready, part, data, rows)
    if part != case:
        del data
        names, runs = list(runs), {}
        data = case.inputs()
        runs = enlarge(case, part, [c for c in ready if c.name in names], data, rows)
    copy, copies = copies_of(case, data)
    for direction in directions:
        calls = {"copy": copies[direction]} | {name: getattr(run, direction) for name, run in runs.items()}
        rounds = tqdm(range(repeats), desc=direction, leave=False, file=sys.stderr)
        for name, times in alternate(calls, case.device, rounds, ahead=True).items():
            (copy if name == "copy" else rows[name])[direction] = times
    if case.device == "cpu" and with_peak:
        for name in tqdm(runs, desc="peak memory", leave=False, file=sys.stderr):
            rows[name]["peak_bytes"] = peak.of_fresh_process("layer", case.as_dict(), name)
    return [copy, *rows.values()]


def copies_of(case: Case, data: Data) -> tuple[dict, dict[str, Callable]]:
    """The copy's row, and the copies in the place of each direction."""

    def one():
        data.spikes.copy_(data.x)

    def two():
        data.spikes.copy_(data.x)
        data.gx.copy_(data.gs)

    row = {"case": case.as_dict(), "contender": "copy", "group": "copy", "status": "ok"}
    row |= {"moved_bytes": 4 * data.x.itemsize, "note": "two copies of x, and one: the floor"}
    return row, {"both": two, "forward": one}


def start_row(case: Case, contender: Contender) -> dict:
    """A contender's row before anything ran."""
    row = {"case": case.as_dict(), "contender": contender.name, "group": contender.group, "status": "ok", "note": ""}
    if why := contender.missing(case):
        return row | {"status": "not available", "reason": why}
    return row | {"note": contender.note(case), "moved_bytes": case.moved_bytes(contender.moves(case))}


def enlarge(case: Case, part: Case, contenders: list[Contender], data: Data, rows: dict[str, dict]) -> dict:
    """What was checked on a part of the neurons, built for all of them: {name: what may be timed} of what fits."""
    runs, times = {}, case.neurons / part.neurons
    for contender in tqdm(contenders, desc="all neurons", leave=False, file=sys.stderr):
        row = rows[contender.name]
        row |= {"checked_neurons": part.neurons, "kept_bytes": round(row["kept_bytes"] * times)}
        needed = times * (row["peak_bytes"] or BYTES_OF_PLAIN_CODE * part.neuron_steps)
        if needed > (there := machine.available_bytes(case.device)):
            why = f"needs about {needed / 2**30:.0f} GiB more, and {there / 2**30:.0f} are free"
            row |= {"status": "not run", "reason": why, "peak_bytes": None}
            continue
        try:
            run = contender.build(case, data)
            row["peak_bytes"] = peak.of_device(run.both) if case.device == "cuda" else None
            runs[contender.name] = run
        except Exception as error:  # a contender's fault, or too little memory, is a result to report
            row |= failure(error)
    return runs


def check(contenders: list[Contender], case: Case, data: Data, rows: dict[str, dict]) -> dict:
    """Build contenders, compare their results with the reference's, measure memory: {name: what may be timed}."""

    def neuron(contender: Contender) -> str:
        return repr(sorted(contender.form(case).items()))

    runs = {}
    for _, group in itertools.groupby(sorted(contenders, key=neuron), key=neuron):
        group = list(group)
        expected = reference(group[0].form(case), data.x, data.gs)
        for contender in tqdm(group, desc="checks", leave=False, file=sys.stderr):
            row = rows[contender.name]
            try:
                run = contender.build(case, data)
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
