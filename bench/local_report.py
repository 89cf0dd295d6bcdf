"""Tables and plots of the study of local truncated BPTT, made from its JSON."""

import statistics
from pathlib import Path
from typing import Any

from fastlif import plot
from fastlif.train import grid

from .ratios import share
from .results import load
from .tet_report import table

Rows = list[dict[str, Any]]


def point(k: int, n: int | None) -> str:
    """The name of a point of the grid."""
    return f"k = {k}, n = {n or 'all'}"


def write(path: Path) -> str:
    """Write the tables beside the JSON file, and the plots into folders of its name; returns the tables."""
    result = load(path)
    studies = {name: [row for row in result["rows"] if row["study"] == name] for name in result["configs"]}
    folder = path.with_suffix("")
    sections = [
        "# Local truncated BPTT over windows of k steps and blocks of n layers\n\n"
        f"Mean and standard deviation of {result['seeds']} seeds; `{result['command']}`, commit "
        f"{result['commit'][:12]}. k = T and n = all is BPTT, the baseline of all ratios. Steps in the grids: one "
        f"thread, {result['processes']} runs side by side. {result.get('note', '')}".strip(),
        claims(studies),
        best(studies, folder),
        over_windows(result["kept"], folder),
    ]
    for name, rows in studies.items():
        sections.append(study(name, rows, result, folder))
    text = "\n\n".join(sections) + "\n"
    path.with_suffix(".md").write_text(text)
    return text


def study(name: str, rows: Rows, result: dict, folder: Path) -> str:
    """The grid of one study, what was measured of its points, and its plots."""
    config, own = result["configs"][name], folder / name.replace("/", "-")
    own.mkdir(parents=True, exist_ok=True)
    pictures = [f"{folder.name}/{own.name}/{path.name}" for path in grid.draw(rows, own)]
    title = f"## {name}: T = {config['steps']}, batches of {config['batch_size']}, {config['epochs']} epochs"
    parts = [title, grid.table(rows).strip(), *(f"![]({path})" for path in pictures)]
    measured = [row for row in result["measured"] if row["study"] == name]
    if measured:
        parts.insert(2, memory_and_time(measured, config["steps"]))
    return "\n\n".join(parts)


def memory_and_time(rows: list[dict], steps: int) -> str:
    """What each point takes at its peak above what the process held, and the time of a step, alternating."""
    whole = next(row for row in rows if row["contender"] == point(steps, None))
    lines = ["| trainable classifiers | kept MB | peak MB | step ms | step / BPTT's |", "|---|---|---|---|---|"]
    for row in rows:
        peak, median = row["peak_bytes"] - row["before_bytes"], row["both"]["median"]
        cells = [row["contender"], f"{row['kept']['total'] / 1e6:.3f}", f"{peak / 1e6:.0f}", f"{1e3 * median:.1f}"]
        lines.append("| " + " | ".join([*cells, f"{median / whole['both']['median']:.2f}"]) + " |")
    return "\n".join(lines)


def claims(studies: dict[str, Rows]) -> str:
    """What the paper claims, by the numbers of every study: points of accuracy, and MACs."""
    rows = []
    for name, found in studies.items():
        points = {key: statistics.mean(row["accuracy"] for row in own) for key, own in grid.by_point(found).items()}
        longest = max(k for _, _, k in points)
        for n in dict.fromkeys(n for kind, n, _ in points if kind == "trainable"):
            own = {k: value for (kind, m, k), value in points.items() if (kind, m) == ("trainable", n)}
            random = {k: value for (kind, m, k), value in points.items() if (kind, m) == ("random", n)}
            top = max((k for k in own), key=own.get)
            bptt = points["trainable", None, longest]
            macs, whole = (next(r["macs"] for r in found if (r["n"], r["k"]) == (m, longest)) for m in (n, None))
            gap = statistics.mean(
                row["train_accuracy"] - row["accuracy"]
                for row in found
                if (row["classifiers"], row["n"], row["k"]) == ("trainable", n, longest)
            )
            cells = [name, grid.label(n), f"{100 * own[longest]:.2f}", f"{100 * (own[longest] - bptt):+.2f}"]
            cells += [f"{100 * gap:+.2f}", f"{100 * (own[1] - own[longest]):+.2f}", top]
            cells += [f"{100 * (own[top] - own[longest]):+.2f}"]
            cells += [f"{100 * (random[longest] - own[longest]):+.2f}" if longest in random else ""]
            rows.append([*cells, f"{100 * (1 - macs / whole):.1f}"])
    heads = ["", "", "k = T, %", "over BP, points", "training over test, points", "k = 1 over k = T", "best k"]
    heads += ["best k over k = T", "random over trainable, k = T", "MACs fewer, %"]
    return table("The paper's claims, by numbers", heads, rows)


def best(studies: dict[str, Rows], folder: Path) -> str:
    """The point with the least figure of merit of each study: accuracy lost, costs saved (figure 15)."""
    found, rows = {name: grid.best(own) for name, own in studies.items()}, []
    for name, one in found.items():
        cells = [name, grid.named(one.rows[0]), share([row["accuracy"] for row in one.rows]), f"{100 * one.lost:+.2f}"]
        rows.append([*cells, *(f"{100 * value:.1f}" for value in one.saved.values())])
    folder.mkdir(parents=True, exist_ok=True)
    plot.bars(grid.bests(found), folder / "best.png")
    costs = next(iter(found.values())).saved
    heads = ["", "best by figure of merit", "accuracy, %", "lost, points", *(f"{name} saved, %" for name in costs)]
    text = table("The best (k, n) of each (figure 15)", heads, rows)
    return f"{text}\n\n![]({folder.name}/best.png)"


def over_windows(rows: list[dict], folder: Path) -> str:
    """Bytes kept over k (figures 6 and 7), and what the paper's scheme would keep, step by step."""
    longest, lines, series = max(row["k"] for row in rows), [], {}
    whole = next(row for row in rows if (row["k"], row["n"]) == (longest, None))
    for n in dict.fromkeys(row["n"] for row in rows):
        own = [row for row in rows if row["n"] == n]
        for name, key in (("ours", "kept"), ("the paper's", "paper")):
            if n is None and key == "paper":
                continue  # one block: the same
            cells = [f"{row[key] / 1e6:.3f} ({100 * row[key] / whole['kept']:.2f} %)" for row in own]
            lines.append([grid.label(n), name if n else "both", *cells])
            title = grid.label(n) if n is None else f"{grid.label(n)}, {name}"
            series[title] = ([row["k"] for row in own], [row[key] / 1e6 for row in own], None)
    folder.mkdir(parents=True, exist_ok=True)
    common = {"xlabel": "k", "ylabel": "MB kept for backward", "percent": False, "log": True}
    plot.lines(series, folder / "kept.png", **common)
    heads = ["", "scheme", *(f"k = {row['k']}" for row in rows if row["n"] is None)]
    title = f"LeNet-1, event-digits, T = {longest}: MB kept for backward at once (of BPTT's)"
    note = (
        "Block by block inside a window, as here, one block's graph is alive at any k; step by step, as in the paper, "
        "those of k - 1 steps of all blocks and of one step of the largest."
    )
    return table(title, heads, lines) + f"\n\n{note}\n\n![]({folder.name}/kept.png)"
