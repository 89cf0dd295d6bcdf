"""The table and the plot, made from a result file: every ratio is computed here, from raw times of one run."""

import argparse
from pathlib import Path

from . import bloctrain_report, local_report, report_training, tet_report
from .case import Case
from .ratios import COLORS, RIVALS, bandwidth, fastest, figures, median, ratio, reason, share, time
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
    """One table for each workload; the last ratio is to the first contender's time, batch norm and LIF apart."""
    lines = [
        "Hard reset, triangle, in training. `% of copy bandwidth`: of the bytes that must move, as a copy moves them."
    ]
    head = ["contender", "fwd+bwd ms (quartiles)", "/ copies", "first /", "kept B/ns", "spikes that differ"]
    head += ["gradient error", "% of copy bandwidth", "note"]
    for title, rows in report_training.groups(result, "title").items():
        lines += ["", f"## {title}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        copy, first = rows[0], rows[1]
        for row in rows:
            cells = dict.fromkeys(head, "") | {"contender": row["contender"], "note": row["note"]}
            if row["status"] != "ok":
                cells["note"] = reason(row)
            if "kept" in row:
                cells |= {"kept B/ns": f"{row['kept']:.3f}", "spikes that differ": f"{row['flips']:.1e}"}
                cells |= {"gradient error": f"{row['gradient_error']:.1e}"}
            if "both" in row:
                cells |= {"fwd+bwd ms (quartiles)": time(row), "/ copies": ratio(median(row), median(copy))}
                cells |= {"first /": ratio(median(first), median(row))}
                cells |= {"% of copy bandwidth": bandwidth_share(row, copy)}
            lines.append(f"| {' | '.join(cells.values())} |")
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
    """Microseconds of a call and of what does nothing; the medians' difference and ratio."""
    lines = [
        "| workload | format | backend | call us | empty operator us | no neurons us | overhead us | call / empty |"
    ]
    lines.append("|" + "---|" * 8)
    for row in result["rows"]:
        case = Case(**row["case"])
        cells = [f"T={case.steps}, {case.neurons:,} neurons, {case.dtype}", row["format"], row["backend"]]
        if row["status"] != "ok":
            lines.append(f"| {' | '.join(cells)} |" + " |" * 4 + f" {reason(row)} |")
            continue
        call, twin, nobody, empty = (median(row, name) for name in ("call", "twin", "nobody", "empty"))
        cells += [f"{t * 1e6:.1f}" for t in (call, twin, nobody, call - empty)] + [ratio(call, empty)]
        lines.append(f"| {' | '.join(cells)} |")
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
        cells += ["" if forward is None else f"{forward * 1e3:.3g}", ratio(forward, median(copy, "forward"))]
        cells += ["" if row is copy else ratio(best, both["median"]) for best in bests]
        kept, peak = row.get("kept_bytes"), row.get("peak_bytes")
        cells += [
            "" if kept is None else f"{kept / case.neuron_steps:.3g}",
            "" if peak is None else f"{peak / 1e6:.0f}",
        ]
        if on_gpu:
            cells.append(bandwidth_share(row, copy))
        part = [f"checked on {row['checked_neurons']:,} neurons"] if "checked_neurons" in row else []
        lines.append(f"| {' | '.join([*cells, '; '.join(filter(None, [row['note'], *part]))])} |")
    return lines


def bandwidth_share(row: dict, copy: dict) -> str:
    """The bytes that must move, over time, as a share of what two copies reach; "" where they are not counted."""
    share = bandwidth(row, copy)
    return "" if share is None else f"{share:.0%}"


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
