"""grid: local truncated BPTT over window lengths and block sizes, with what each keeps, takes and costs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import cost, plot
from ..cost.local import TOTALS, merit, totals
from . import build, compare
from .checkpoint import replace as write
from .config import Config
from .run import train
from .saved import load
from .side_by_side import side_by_side


def grid(
    config: Config,
    windows: Sequence[int],
    blocks: Sequence[int | None],
    classifiers: Sequence[str] = ("trainable",),
    seeds: int = 3,
    folder: Path = Path("runs/grid"),
    processes: int | None = None,
) -> list[dict[str, Any]]:
    """Train for every (k, n), and end to end: figures 3 to 7 and 9 to 15 of local truncated BPTT, on any data.

    Runs are kept in `folder` as they are done: interrupted anywhere, it goes on from there.

    Args:
        config: the other options; its method is local-bptt.
        windows: k.
        blocks: n, layers with weights in a block; None for all.
        classifiers: "trainable", "random" or both.
        seeds: how many runs of each, from config.seed on.
        folder: where runs are kept.
        processes: how many at once; see `side_by_side`.

    Returns:
        A row of every run: k, n, classifiers, seed; accuracy (test), train_accuracy (of the last epoch, as it was
        trained), seconds, step_ms (median), kept (bytes for backward at once), and of an iteration by the paper's
        formulas (`fastlif.cost.local_bptt`) memory in bytes, accesses, additions, macs, and merit
        (`fastlif.cost.figure_of_merit`; the least is best). BPTT is the run with k = T, n None and trainable
        classifiers.

    Raises:
        ValueError: another method; no seeds; a window or block that cannot be, said before anything is trained.
        RuntimeError: a run has failed; see `side_by_side`.
    """
    if config.method != "local-bptt":
        raise ValueError(f"a grid is of method='local-bptt', got {config.method!r}")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    points = {(config.steps, None, "trainable")} | {(k, n, c) for k in windows for n in blocks for c in classifiers}
    configs = {}
    for k, n, kind in sorted(points, key=lambda point: (point[2], point[1] or 10**6, point[0]), reverse=True):
        chosen = replace(config, window=str(k), block=n, classifiers=kind)
        check(chosen)
        for seed in range(config.seed, config.seed + seeds):
            configs[f"{kind}/k={k} n={n or 'all'}/{seed}"] = replace(chosen, seed=seed)
    rows = list(side_by_side(configs, one, folder, processes).values())
    baseline = [row for row in rows if is_bptt(row, config.steps)]
    accuracy = statistics.mean(row["accuracy"] for row in baseline) or 1.0  # none right: nothing to lose
    for row in rows:
        whole = next(own for own in baseline if own["seed"] == row["seed"])
        row["merit"] = merit((accuracy - row["accuracy"]) / accuracy, row, whole)
    return rows


def check(config: Config) -> None:
    """ValueError where a run would end in one: the network cannot be cut so, or a window is longer than T."""
    k1, _ = config.windows
    if k1 > config.steps:
        raise ValueError(f"a window must be at most T = {config.steps} steps, got {k1}")
    dataset = build.dataset(config)
    net = build.network(config, "fastlif", dataset.shape, dataset.classes)
    build.method(config, net, config.phases[-1], 1)


def one(name: str, config: Config, out: Path) -> dict[str, Any]:
    """A run of the grid, and its row."""
    done = train(config, out=out, resume=True)
    trained = load(out, config.device)
    x, _ = next(iter(build.batches(config, trained.dataset(), "test", config.steps)))
    stored = build.network(replace(config, classifiers="trainable"), "fastlif", trained.shape, trained.classes)
    stored.load_state_dict(trained.net.state_dict(), strict=False)  # random classifiers have no weights to count
    (k, _), options = config.windows, {"classifiers": config.classifiers, "batch": config.batch_size}
    counted = cost.local_bptt(stored, x, k=k, n=config.block, **options)
    return {
        "k": k, "n": config.block, "classifiers": config.classifiers, "seed": config.seed,
        "accuracy": done.test_accuracy, "train_accuracy": done.epochs[-1].accuracy,
        "seconds": done.seconds, "epochs": len(done.epochs),
        "step_ms": statistics.median(epoch.step_ms for epoch in done.epochs),
        "kept": compare.kept(config, "fastlif").total, **totals(counted),
    }  # fmt: skip


def is_bptt(row: dict[str, Any], steps: int) -> bool:
    """Whether a row is that of backpropagation through all steps and layers."""
    return (row["k"], row["n"], row["classifiers"]) == (steps, None, "trainable")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean over seeds of every point, in Markdown; costs over those of BPTT."""
    steps = max(row["k"] for row in rows)
    whole = next(row for row in rows if is_bptt(row, steps))
    heads = ["classifiers", "n", "k", "accuracy, %", "kept MB", "step ms", "memory", "accesses", "additions"]
    heads += ["MACs", "merit"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (kind, n, k), own in by_point(rows).items():
        accuracies = [100 * row["accuracy"] for row in own]
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(own) > 1 else ""
        cells = [kind, n or "all", k, f"{statistics.mean(accuracies):.2f}{spread}", f"{own[0]['kept'] / 1e6:.2f}"]
        cells.append(f"{statistics.median(row['step_ms'] for row in own):.1f}")
        for name in TOTALS:
            cells.append(f"{statistics.mean(row[name] for row in own) / whole[name]:.3f}")
        cells.append(f"{statistics.mean(row['merit'] for row in own):.3f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Best:
    """The point with the least figure of merit, BPTT left out: its rows, the accuracy it loses (a share of samples),
    and what it saves, a share of BPTT's, of each of `fastlif.cost.local.TOTALS` and of the bytes kept."""

    rows: list[dict[str, Any]]
    lost: float
    saved: dict[str, float]


def best(rows: Sequence[dict[str, Any]]) -> Best:
    """Figure 15's, of rows with other points than BPTT: of those with trainable classifiers, if there are any."""
    steps = max(row["k"] for row in rows)
    whole = [row for row in rows if is_bptt(row, steps)]
    others = [own for own in by_point(rows).values() if not is_bptt(own[0], steps)]
    others = [own for own in others if own[0]["classifiers"] == "trainable"] or others

    def mean(own, name):
        return statistics.mean(row[name] for row in own)

    least = min(others, key=lambda own: mean(own, "merit"))
    saved = {name: 1 - mean(least, name) / mean(whole, name) for name in (*TOTALS, "kept")}
    return Best(least, mean(whole, "accuracy") - mean(least, "accuracy"), saved)


def named(row: dict[str, Any]) -> str:
    """A row's point in a word."""
    return f"k = {row['k']}, {label(row['n'])}, {row['classifiers']}"


def by_point(rows: Sequence[dict[str, Any]]) -> dict[tuple, list[dict[str, Any]]]:
    """The rows of all seeds, by (classifiers, n, k)."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["classifiers"], row["n"], row["k"]), []).append(row)
    return found


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """accuracy.png (figures 3 to 5), memory.png (6, 7), costs.png (9 to 13), merit.png (14), best.png (15)."""
    made = []
    kinds = list(dict.fromkeys(row["classifiers"] for row in rows))

    def panel(kind, name, ylabel, percent=False):
        series = {}
        for n in dict.fromkeys(row["n"] for row in rows if row["classifiers"] == kind):
            points = sorted((k, own) for (c, m, k), own in by_point(rows).items() if (c, m) == (kind, n))
            values = [[row[name] for row in own] for _, own in points]
            spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
            series[label(n)] = [k for k, _ in points], [statistics.mean(v) for v in values], spread
        title = f"{kind} classifiers" if len(kinds) > 1 else ylabel
        return {"series": series, "xlabel": "k", "ylabel": ylabel, "title": title, "log": True, "percent": percent}

    for name, columns in {
        "accuracy": [("accuracy", "test accuracy", True)],
        "memory": [("kept", "bytes kept", False), ("memory", "bytes by formula", False)],
        "costs": [("accesses", "memory accesses", False), ("additions", "additions", False), ("macs", "MACs", False)],
    }.items():
        path = folder / f"{name}.png"
        plot.panels([panel(kind, *column) for kind in kinds for column in columns], path)
        made.append(path)
    plot.bars([merits(rows, kind) for kind in kinds], folder / "merit.png")
    made.append(folder / "merit.png")
    if len(by_point(rows)) > 1:
        plot.bars(bests({"": best(rows)}), folder / "best.png")
        made.append(folder / "best.png")
    return made


def bests(found: Mapping[str, Best]) -> list[dict[str, Any]]:
    """Panels of bars: accuracy lost and costs saved by the best point of each grid (figure 15)."""
    names = [f"{name}\n{named(one.rows[0])}".strip() for name, one in found.items()]
    saved = {cost: [one.saved[cost] for one in found.values()] for cost in (*TOTALS, "kept")}
    common = {"names": names, "percent": True}
    return [
        common | {"series": {"accuracy lost": [one.lost for one in found.values()]}, "ylabel": "of all samples"},
        common | {"series": saved, "ylabel": "saved, of BPTT's"},
    ]


def merits(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """A panel of bars: the mean figure of merit over seeds, of every k by n."""
    own = {(n, k): found for (c, n, k), found in by_point(rows).items() if c == kind}
    windows = sorted({k for _, k in own}, reverse=True)
    series = {
        label(n): [statistics.mean(row["merit"] for row in own[n, k]) if (n, k) in own else None for k in windows]
        for n in dict.fromkeys(n for n, _ in own)
    }
    names = [f"k = {k}" for k in windows]
    return {"names": names, "series": series, "ylabel": "figure of merit", "title": f"{kind} classifiers"}


def label(n: int | None) -> str:
    """The paper's name of blocks of n layers."""
    return "BP" if n is None else f"LBP{n}"


def save(rows: Sequence[dict[str, Any]], config: Config, folder: Path) -> Path:
    """grid.json, grid.md and the pictures, in `folder`."""
    write(folder / "grid.json", json.dumps({"config": asdict(config), "rows": list(rows)}, indent=1).encode())
    write(folder / "grid.md", table(rows).encode())
    draw(rows, folder)
    return folder / "grid.json"
