"""Tables and plots of the benchmarks that run whole networks, made from their rows."""

from pathlib import Path

from .ratios import COLORS, RIVALS, fastest, figures, median, ratio, reason, time

HEAD = [
    "contender", "kept B", "alive B", "kept MB", "peak MB", "step ms (quartiles)", *(f"x {r}" for r in RIVALS),
    "flips", "gradient error", "loss error", "whole gradient", "note",
]  # fmt: skip
LEGEND = (
    "`kept`: what autograd keeps for backward, as hooks on saved tensors count it; `alive`: what the allocator holds "
    "for it after the forward pass. Hooks do not see what checkpointing hides in other objects, and count what is kept "
    "only until a branch without a result ends. B are bytes per neuron and step; parameters, input and output do not "
    "count. `peak`: growth of memory over the input, weights and their gradients included. `x name`: how many times "
    "faster than the fastest row of that name. `flips`: share of differing spikes in the first layers, `gradient "
    "error`: of their parameters, both against the plain network in float64. `loss error` and `whole gradient` are "
    "distances of the whole network from the plain one in the same precision; single flips by rounding make the latter "
    "large."
)


def groups(result: dict, key: str) -> dict:
    """The rows under each value of `key`."""
    found: dict = {}
    for row in result["rows"]:
        found.setdefault(row[key], []).append(row)
    return found


def per_neuron_step(row: dict, name: str) -> float:
    return row[name] / row["neuron_steps"]


def tables(result: dict) -> list[str]:
    """One table for each workload."""
    lines = [LEGEND]
    for title, rows in groups(result, "title").items():
        lines += ["", f"## {title}", "", f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
        lines += [f"| {' | '.join(cells(row, rows))} |" for row in rows]
    return lines


def cells(row: dict, rows: list[dict]) -> list[str]:
    """A row's entries; what it has not got is empty, with the reason as its note."""
    found = dict.fromkeys(HEAD, "") | {"contender": row["contender"], "note": row["note"]}
    if row["status"] != "ok":
        found["note"] = reason(row)
    if "kept_bytes" in row:
        found |= {f"{name} B": f"{per_neuron_step(row, f'{name}_bytes'):.3g}" for name in ("kept", "alive")}
        found["kept MB"] = f"{row['kept_bytes'] / 1e6:.1f}"
    if row.get("peak_bytes") is not None:
        found["peak MB"] = f"{row['peak_bytes'] / 1e6:.0f}"
    if "both" in row:
        found["step ms (quartiles)"] = time(row)
        found |= {f"x {rival}": ratio(fastest(rows, rival), median(row)) for rival in RIVALS}
    for name in ("flips", "loss error", "gradient error"):
        found[name] = number(row.get(name.replace(" ", "_")))
    found["whole gradient"] = number(row.get("gradient_from_naive"))
    return [found[name] for name in HEAD]


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def plot(result: dict, path: Path) -> None:
    """Bytes alive for backward and step time of every contender, as bars; a pair of panels for each workload."""
    shown = {title: [r for r in rows if "kept_bytes" in r] for title, rows in groups(result, "title").items()}
    shown = {title: rows for title, rows in shown.items() if rows}
    if not shown:
        return
    pyplot = figures()
    height = 1 + 0.25 * max(map(len, shown.values()))
    figure, axes = pyplot.subplots(len(shown), 2, figsize=(11, height * len(shown)), squeeze=False, sharey="row")
    for (left, right), (title, rows) in zip(axes, shown.items(), strict=True):
        alive = [per_neuron_step(row, "alive_bytes") for row in rows]
        seconds = [median(row) or 0 for row in rows]
        for axis, values, label in (
            (left, alive, "bytes alive after forward, per neuron and step"),
            (right, seconds, "seconds a step"),
        ):
            axis.barh(
                [row["contender"] for row in rows], values, color=[COLORS.get(row["group"], "tab:gray") for row in rows]
            )
            for position, value in enumerate(values):
                axis.text(value, position, f" {value:.3g}" if value else " not timed", va="center", fontsize=7)
            axis.set_xlabel(label, fontsize=8)
            axis.tick_params(labelsize=7)
            axis.margins(x=0.12)
        left.invert_yaxis()
        left.set_title(title, fontsize=9, loc="left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def over_time_table(result: dict) -> list[str]:
    """Kept bytes per neuron, of all steps together, one column for each T."""
    by_steps = groups(result, "steps")
    names = [str(steps) for steps in by_steps]
    neurons = result["rows"][0]["neuron_steps"] // result["rows"][0]["steps"]
    lines = [
        "Bytes held for backward per neuron, all steps together: what grows with T. "
        f"{neurons:,} neurons, batch norm in evaluation mode for all; first column: {result['rows'][0]['title']}. "
        "`checkpoint_time` counts the membranes at the borders of its windows and, as in backward, one window.",
        "",
        f"| contender | {' | '.join(f'T={name}' for name in names)} | note |",
        "|" + "---|" * (len(names) + 2),
    ]
    for name, rows in groups(result, "contender").items():
        kept = [f"{r['kept_bytes'] / neurons:.1f}" if "kept_bytes" in r else "" for r in rows]
        note = next((reason(row) for row in rows if row["status"] != "ok"), rows[0]["note"])
        lines.append(f"| {name} | {' | '.join(kept)} | {note} |")
    return lines


def plot_over_time(result: dict, path: Path) -> None:
    """Kept bytes over T, both axes logarithmic."""
    pyplot = figures()
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for name, rows in groups(result, "contender").items():
        rows = [row for row in rows if "kept_bytes" in row]
        if rows:
            axis.plot([r["steps"] for r in rows], [r["kept_bytes"] / 1e6 for r in rows], marker="o", label=name)
    steps = sorted(groups(result, "steps"))
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(steps, [str(value) for value in steps])
    axis.set_xlabel("steps T")
    axis.set_ylabel("MB kept for backward")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
