"""The README's section on GPUs: made from the results under bench/results/, never typed.

python -m bench readme
"""

import argparse
import json
from itertools import chain
from pathlib import Path

from . import targets
from .ratios import bandwidth, median
from .verdict import matches, read

ROOT = Path(__file__).resolve().parents[1]
RESULTS, README = ROOT / "bench" / "results", ROOT / "README.md"
BEGIN, END = "<!-- made by `python -m bench readme` -->\n", "<!-- end -->\n"
NOTHING = "Nothing has been measured on a GPU yet; `python bench/gpu.py` does, and writes its results here.\n"
DTYPES, AMPS = ("float32", "bfloat16"), (None, "bfloat16")
LAYERS = [
    *(f"fastlif {kept}" for kept in targets.FORMATS),
    *(f"{name} triangle" for name in (*targets.FUSED, *targets.HALF)),
    "snntorch",
    "norse",
    "naive triangle",
]
NETWORKS = ["fastlif batch norm fused, bits", "fastlif recompute", "spikingjelly", "snntorch", "naive"]


def section(results: Path) -> str:
    """Markdown of every device's folder there."""
    folders = [path.parent for path in sorted(results.glob("*/summary.json"))]
    return "\n".join(of_device(folder, folder.relative_to(results.parents[1])) for folder in folders) or NOTHING


def of_device(folder: Path, link: Path) -> str:
    """Which targets are met, and the main figures; `link` is the folder as the README has it."""
    summary = json.loads((folder / "summary.json").read_text())
    verdicts, device, versions = targets.judged(folder), summary["device"], summary["versions"]
    name = device["name"] if isinstance(device, dict) else device
    where = ", ".join(f"{package} {versions[package]}" for package in ("torch", "triton") if versions.get(package))
    commit = summary["commit"][:12] + summary["commit"][40:]  # "-dirty"
    lines = [f"On an {name} ({where}{copying(folder)}), commit {commit}: {targets.counted(verdicts)}."]
    lines += [f"[All steps]({link}/summary.md), [what is missing]({link}/targets.md).", ""]
    lines += [row.rsplit("|", 2)[0] + "|" for row in targets.rows_of(verdicts)]
    lines += ["", targets.NOTE, *layers(folder), "", *networks(folder)]
    return "\n".join(lines).rstrip() + "\n"


def copying(folder: Path) -> str:
    """The copy's bandwidth."""
    result = read(folder / "copy.json")
    return "" if isinstance(result, str) else f"; a copy moves {result['rows'][0]['bytes_per_second'] / 1e12:.2f} TB/s"


def layers(folder: Path) -> list[str]:
    """Forward + backward of one layer: milliseconds, and the share of a copy's bandwidth."""

    def cells(row: dict, rows: list[dict]) -> list[str]:
        share = bandwidth(row, next(r for r in rows if r["contender"] == "copy"))
        return [f"{median(row) * 1e3:.3g}", "" if share is None else f"{share:.0%}"]

    cases = [{"steps": 16, "neurons": targets.LARGE, "reset": "soft", "dtype": dtype} for dtype in DTYPES]
    head = [f"{dtype} {what}" for dtype in DTYPES for what in ("ms", "of a copy's bandwidth")]
    return table(folder / "layer.json", "a layer, T=16, 16 M neurons, soft reset", LAYERS, cases, head, cells)


def networks(folder: Path) -> list[str]:
    """A training step of VGGSNN: milliseconds, and peak memory."""

    def cells(row: dict, rows: list[dict]) -> list[str]:
        peak = row.get("peak_bytes")
        return [f"{median(row) * 1e3:.3g}", f"{peak / 1e6:.0f}" if peak else ""]

    head = [f"{amp or 'float32'} {what}" for amp in AMPS for what in ("ms", "MB")]
    cases = [{"steps": 10, "batch": 32, "size": 48, "amp": amp} for amp in AMPS]
    return table(folder / "network.json", "a step of VGGSNN, T=10, batch 32", NETWORKS, cases, head, cells)


def table(path: Path, title: str, names: list[str], cases: list[dict], head: list[str], cells) -> list[str]:
    """A line for each contender that was timed in one of the cases; none without the file."""
    result = read(path)
    if isinstance(result, str):
        return []
    groups = [[row for row in result["rows"] if matches(row["case"], case)] for case in cases]
    lines = [f"| {' | '.join([title, *head])} |", "|" + "---|" * (1 + len(head))]
    for name in names:
        found = [next((row for row in rows if row["contender"] == name and "both" in row), None) for rows in groups]
        if any(found):
            width = len(head) // len(cases)
            parts = (cells(row, rows) if row else [""] * width for row, rows in zip(found, groups, strict=True))
            lines.append(f"| {' | '.join([name, *chain.from_iterable(parts)])} |")
    return lines if len(lines) > 2 else []


def write(results: Path = RESULTS, readme: Path = README) -> None:
    """Put the section between its marks."""
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + BEGIN + section(results) + END + after)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def main(args: argparse.Namespace) -> int:
    write()
    return 0
