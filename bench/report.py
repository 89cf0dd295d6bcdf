"""The table and the plot, made from a result file: every ratio is computed here, from raw times of one run."""

import argparse
from pathlib import Path

from . import bloctrain_report, local_report, report_training, tet_report
from .case import Case
from .ratios import COLORS, RIVALS, fastest, figures, median, ratio, reason, share, time
from .results import load

STUDIES = {"tet": tet_report, "local": local_report, "bloctrain": bloctrain_report}  # what writes their tables
HEAD = ["contender", "fwd+bwd ms (quartiles)", "/ 2 copies", "forward ms", "/ copy", *(f"x {r}" for r in RIVALS)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", type=Path, help="JSON file of a run")


def main(args: argparse.Namespace) -> int:
    print(write_report(args.result))
    return 0


def write_report(path: Path) -> str:
    """Write the table (.md) of a result file beside it and, except for overheads, a plot (.png); returns the table."""
    result = load(path)
    if result["benchmark"] in STUDIES:
        return STUDIES[result["benchmark"]].write(path)
    text = table(result)
    path.with_suffix(".md").write_text(text)
    plots = {"layer": plot, "over-time": report_training.plot_over_time}
    plots |= dict.fromkeys(("network", "onm"), report_training.plot)
    if result["benchmark"] in plots:
        plots[result["benchmark"]](result, path.with_suffix(".png"))
    return text


def by_case(result: dict) -> dict[Case, list[dict]]:
    """The rows of each workload."""
    groups: dict[Case, list[dict]] = {}
    for row in result["rows"]:
        groups.setdefault(Case(**row["case"]), []).append(row)
    return groups


def table(result: dict) -> str:
    """Markdown: where the result comes from, then its rows."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        f"# {result['benchmark']} benchmark",
        "",
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; "
        + ", ".join(f"{name} {number}" for name, number in versions.items() if number),
        "",
        f"commit {result['commit']}, {result['date']}, `{result['command']}`",
        "",
    ]
    bodies = {
        "overhead": overhead_table,
        "train": train_table,
        "methods": train_table,
        "batch_norm": batch_norm_table,
        "layer": layer_tables,
        "over-time": report_training.over_time_table,
    }
    bodies |= dict.fromkeys(("network", "onm"), report_training.tables)
    return "\n".join(lines + bodies[result["benchmark"]](result)) + "\n"


def batch_norm_table(result: dict) -> list[str]:
    """One row for each contender and layout; the ratio is to the first contender's time, batch norm and LIF apart."""
    lines = [
        f"y of {'x'.join(map(str, result['shape']))}, {result['dtype']}, hard reset, triangle, in training.",
        "",
        "| layout | contender | fwd+bwd ms (quartiles) | / copies | / first | kept B/ns | spikes that differ |",
        "|---|---|---|---|---|---|---|",
    ]
    for layout in dict.fromkeys(row["layout"] for row in result["rows"]):
        first, *others, copy = (row for row in result["rows"] if row["layout"] == layout)
        for row in (first, *others):
            cells = [layout, row["contender"], time(row), ratio(median(row), median(copy))]
            cells += [ratio(median(row), median(first)), f"{row['kept']:.3f}", f"{row['flips']:.1e}"]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def train_table(result: dict) -> list[str]:
    """One row for each contender; ratios are to the first one, the naive layers."""
    config, (first, *_) = result["config"], result["rows"]
    lines = [
        f"{result['recipe']}, T = {config['steps']}, batches of {config['batch_size']}, {config['precision']}; "
        "peak: what the process took at its peak over three steps, above what it held before them.",
        "",
    ]
    head = ["contender", "step ms (quartiles)", "naive / step", "kept MB", "B/ns", "naive / kept", "peak MB"]
    head += ["naive / peak", *([f"accuracy after {config['epochs']} epochs, %"] if "accuracy" in first else [])]
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    above = [row["peak_bytes"] - row["before_bytes"] for row in result["rows"]]
    for row, peak in zip(result["rows"], above, strict=True):
        kept = row["kept"]
        cells = [row["contender"], time(row), ratio(median(first), median(row)), f"{kept['total'] / 1e6:.2f}"]
        cells += [f"{kept['per_neuron_step']:.3f}", ratio(first["kept"]["total"], kept["total"])]
        cells += [f"{peak / 1e6:.0f}", ratio(above[0], peak)]
        cells += [share(row["accuracy"]) if row["accuracy"] else "not trained"] if "accuracy" in row else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def overhead_table(result: dict) -> list[str]:
    """Microseconds of a call and of an empty operator, and the difference of the medians."""
    lines = ["| format | backend | call us | empty operator us | overhead us |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        times = (row["call"]["median"], row["empty"]["median"], row["overhead"])
        lines.append(f"| {row['contender']} | {row['backend']} | {' | '.join(f'{t * 1e6:.1f}' for t in times)} |")
    return lines


def layer_tables(result: dict) -> list[str]:
    """One table for each workload."""
    lines = [
        "`x name`: how many times faster than the fastest row of that name, whatever its surrogate or backend. "
        "`kept`: bytes per neuron and step that autograd keeps for backward.",
    ]
    for case, rows in by_case(result).items():
        lines += ["", f"## {case.title}", "", *case_table(case, rows)]
    return lines


def case_table(case: Case, rows: list[dict]) -> list[str]:
    copy = next((row for row in rows if row["group"] == "copy"), None)
    bests = [fastest(rows, rival) for rival in RIVALS]
    on_gpu = case.device == "cuda"
    head = [*HEAD, "kept B", "peak MB", *(["% of copy bandwidth"] if on_gpu else []), "note"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        if row["status"] != "ok":
            lines.append(f"| {row['contender']} |" + " |" * (len(head) - 2) + f" {reason(row)} |")
            continue
        both, forward = row["both"], median(row, "forward")
        cells = [row["contender"], time(row), ratio(both["median"], median(copy))]
        cells += [f"{forward * 1e3:.3g}", ratio(forward, median(copy, "forward"))]
        cells += ["" if row is copy else ratio(best, both["median"]) for best in bests]
        kept, peak = row.get("kept_bytes"), row.get("peak_bytes")
        cells += [
            "" if kept is None else f"{kept / case.neuron_steps:.3g}",
            "" if peak is None else f"{peak / 1e6:.0f}",
        ]
        if on_gpu:
            cells.append(bandwidth_share(row, copy))
        lines.append(f"| {' | '.join([*cells, row['note']])} |")
    return lines


def bandwidth_share(row: dict, copy: dict) -> str:
    """The bytes that must move, over time, as a share of what two copies reach; "" where they are not counted."""
    if not row.get("moved_bytes"):
        return ""
    return f"{row['moved_bytes'] / copy['moved_bytes'] * median(copy) / median(row):.0%}"


def plot(result: dict, path: Path) -> None:
    """Forward + backward of every timed row in units of two copies, one panel for each workload."""
    groups = {case: [row for row in rows if "both" in row] for case, rows in by_case(result).items()}
    groups = {case: rows for case, rows in groups.items() if rows}
    if not groups:
        return
    pyplot = figures()
    height = 1 + 0.22 * max(map(len, groups.values()))
    figure, axes = pyplot.subplots(len(groups), 1, figsize=(9, height * len(groups)), squeeze=False)
    for axis, (case, rows) in zip(axes[:, 0], groups.items(), strict=True):
        floor = next(median(row) for row in rows if row["group"] == "copy")
        values = [median(row) / floor for row in rows]
        axis.barh(
            [row["contender"] for row in rows], values, color=[COLORS.get(row["group"], "tab:gray") for row in rows]
        )
        for position, value in enumerate(values):
            axis.text(value, position, f" {value:.2g}", va="center", fontsize=7)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.tick_params(labelsize=7)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(case.title, fontsize=9)
        axis.set_xlabel("forward + backward, in times of two copies of x", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
