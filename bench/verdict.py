"""Whether a folder of results shows what a GPU must reach: met, not met, or not measured.

Every figure is a ratio of medians of one file, and so of one run. What is not there is not measured, and never met.
"""

import json
import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from .ratios import bandwidth, median

BACKENDS = ("cuda", "triton")
SIGNS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
MET, MISSED, UNKNOWN = "met", "NOT met", "not measured"
KEYS = {"bandwidth": "both", "speed": "both", "peak": "peak_bytes", "overhead": "call"}
FAULTS = ("failed", "refused")  # of a row of ours: it was tried
SHOWN = 3  # reasons in a line


@dataclass(frozen=True)
class Verdict:
    """`outcome`: MET, MISSED or UNKNOWN. `why`: where the worst figure is from, and what is not there."""

    outcome: str
    measured: str = ""
    why: str = ""


def verdict(good: bool, bad: bool, absent: bool, measured: str, why: Iterable[str]) -> Verdict:
    """Met only with something `good`, nothing `bad` and nothing `absent`."""
    outcome = MISSED if bad else MET if good and not absent else UNKNOWN
    why = list(dict.fromkeys(filter(None, why)))
    more = [f"{len(why) - SHOWN} more"] if len(why) > SHOWN else []
    return Verdict(outcome, measured, "; ".join(why[:SHOWN] + more))


@dataclass(frozen=True)
class Target:
    """In every combination of `cases` all of `ours` reach the limit; `theirs`: beside the best of them that ran.

    quantity: "bandwidth", the share of a copy's on the bytes that must move; "speed", their time over ours; "peak", our
    memory over theirs; "overhead", a call's time over that of an operator which does nothing.
    """

    name: str
    file: str
    quantity: str
    limit: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...] = ()
    cases: dict[str, tuple] = field(default_factory=dict)

    def judge(self, folder: Path) -> Verdict:
        result = read(folder / self.file)
        if isinstance(result, str):
            return Verdict(UNKNOWN, why=result)
        if not any(row["case"]["device"] == "cuda" for row in result["rows"]):
            return Verdict(UNKNOWN, why=f"{self.file} is of no GPU")
        values, faults, absent, lacking = [], [], [], {}
        for combination in product(*self.cases.values()):
            case = dict(zip(self.cases, combination, strict=True))
            rows = [row for row in result["rows"] if matches(row["case"], case | {"device": "cuda"})]
            varied = [str(value) for name, value in case.items() if len(self.cases[name]) > 1]
            for name in self.ours:
                label, (value, notes) = ", ".join([name, *varied]), self.value(name, rows)
                lacking |= notes
                if isinstance(value, float):
                    values.append((value, label))
                else:
                    (faults if value.startswith(FAULTS) else absent).append(f"{label}: {value}")
        sign, limit = self.limit.split()
        worst, label = (min if sign[0] == ">" else max)(values, default=(None, None))
        missed = worst is not None and not SIGNS[sign](worst, float(limit))
        without = (f"without {name}: {why}" for name, why in lacking.items())
        why = [label if len(values) > 1 else "", *faults, *without, *absent]
        measured = f"{worst:.3f}{' without ' * bool(lacking)}{', '.join(lacking)}" if values else ""
        return verdict(bool(values), missed or bool(faults), bool(absent), measured, why)

    def value(self, name: str, rows: list[dict]) -> tuple[float | str, dict[str, str]]:
        """The figure of one of ours among its case's rows, or why there is none; and who is missing beside it."""
        key = KEYS[self.quantity]
        row = one(rows, name, key)
        if isinstance(row, str):
            return row, {}
        if self.quantity == "overhead":
            return median(row, "call") / median(row, "empty"), {}
        found = {other: one(rows, other, key) for other in self.theirs or ("copy",)}
        notes = {other: why for other, why in found.items() if isinstance(why, str)}
        others = [other for other in found.values() if not isinstance(other, str)]
        if not others:
            return "nothing to compare with", notes
        if self.quantity == "bandwidth":
            return bandwidth(row, others[0]) or "its bytes are not counted", notes
        if self.quantity == "peak":
            return row[key] / min(other[key] for other in others), notes
        return min(map(median, others)) / median(row), notes


@dataclass(frozen=True)
class Proof:
    """Steps of the run that are ok; or, with `test`, the tests of that name in them pass on each backend of a GPU."""

    name: str
    steps: tuple[str, ...]
    test: str = ""

    limit = "all pass"

    def judge(self, folder: Path) -> Verdict:
        summary = read(folder / "summary.json", "steps")
        if isinstance(summary, str):
            return Verdict(UNKNOWN, why=summary)
        records = {name: record_of(summary, name) for name in self.steps}
        tests = [t for record in records.values() for t in record.get("tests", ()) if self.test in ("", t["test"])]
        passed = {backend: sum(t["passed"] for t in tests if t["place"] == f"cuda-{backend}") for backend in BACKENDS}
        failed = [f"{t['test']}: {t['failed']} failed" for t in tests if t["failed"]]
        said = {name: ": ".join(filter(None, (f"{name} {r['status']}", r.get("said")))) for name, r in records.items()}
        absent = [said[name] for name, record in records.items() if record["status"] not in ("ok", "failed")]
        if self.test:
            absent += [f"{backend}: none passed" for backend, count in passed.items() if not count]
        else:
            failed += [said[name] for name, record in records.items() if record["status"] == "failed"]
            empty = [name for name, r in records.items() if "tests" in r and not any(t["passed"] for t in r["tests"])]
            absent += [f"{name}: no test passed" for name in empty]
        measured = ", ".join(f"{backend}: {count} passed" for backend, count in passed.items() if count)
        return verdict(True, bool(failed), bool(absent), measured, [*failed, *absent])


def record_of(summary: dict, name: str) -> dict:
    """A step's record, if it is of the summary's own commit."""
    record = summary["steps"].get(name, {"status": "not run"})
    commit = record.get("commit", summary.get("commit"))
    if commit == summary.get("commit"):
        return record
    return {"status": "not run", "said": f"what is there ({record['status']}) is of commit {commit}"}


def read(path: Path, key: str = "rows") -> dict | str:
    """A result file, or what is wrong with it."""
    try:
        result = json.loads(path.read_text())
    except OSError:
        return f"no {path.name}"
    except json.JSONDecodeError as error:
        return f"{path.name} cannot be read: {error}"
    return result if key in result else f"{path.name} has no {key}"


def matches(case: dict, wanted: dict) -> bool:
    return all(case.get(name, wanted) == value for name, value in wanted.items())


def one(rows: list[dict], name: str, key: str) -> dict | str:
    """The row of a contender that has such a figure, or why there is none."""
    found = [row for row in rows if row["contender"] == name]
    if len(found) != 1:
        return f"{len(found)} rows" if found else "no row"
    (row,) = found
    if row["status"] != "ok":
        return f"{row['status']}: {row['reason']}"
    return row if row.get(key) else f"no {key} in its row"
