"""The plot of a report: how the training went, what backward kept, and how long a step took."""

from pathlib import Path
from typing import Any

INK, FAINT = "#1f2933", "#9aa5b1"
COLORS = {"naive": "#b8c4d0", "fastlif": "#0d9488"}
PARTS = {"neurons": "#0d9488", "batch norm": "#f2b84b", "convolution": "#5b8def", "pooling": "#e07a5f", "other": FAINT}
LABELS = {"naive": "naive PyTorch", "fastlif": "fastlif"}
WIDTHS = {"naive": 6.0, "fastlif": 1.8}


def save(report: dict[str, Any], path: Path) -> None:
    """Draw `report` (see report.py) into a PNG at `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    config, runs = report["config"], report["runs"]
    style = {
        "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK,
        "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 12, "legend.frameon": False,
    }  # fmt: skip
    with plt.rc_context(style):
        figure, axes = plt.subplots(2, 2, figsize=(10.5, 7.2), layout="constrained", width_ratios=(1.35, 1))
        curves(axes[0, 0], runs, "loss", "Training loss")
        curves(axes[1, 0], runs, "validation_accuracy", "Validation accuracy")
        kept(axes[0, 1], runs)
        milliseconds(axes[1, 1], runs)
        accuracies = ", ".join(f"{name} {run['test_accuracy']:.2%}" for name, run in runs.items())
        figure.suptitle(
            f"{config['model']} on {config['data']}, {config['steps']} steps, {len(runs['fastlif']['epochs'])} epochs"
            f"   ·   test accuracy: {accuracies}",
            x=0.01, ha="left", fontsize=12,
        )  # fmt: skip
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15, wspace=0.05, hspace=0.06)
        figure.savefig(path, dpi=160, facecolor="white")
        plt.close(figure)


def curves(axis, runs, key: str, title: str) -> None:
    """One curve a run; the naive one is drawn broad, since the other usually hides it."""
    for name, run in runs.items():
        numbers, values = ([epoch[k] for epoch in run["epochs"]] for k in ("number", key))
        axis.plot(numbers, values, color=COLORS[name], lw=WIDTHS[name], solid_capstyle="round", label=LABELS[name])
    axis.set_title(title)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(axis="y", color="#e4e7eb", lw=0.8)
    axis.set_axisbelow(True)
    if key == "validation_accuracy":
        axis.yaxis.set_major_formatter(lambda value, position: f"{value:.0%}")
        axis.set_ylim(top=1.01)
    axis.legend(loc="center right")


def kept(axis, runs) -> None:
    """Bytes kept per neuron and step, stacked by part of the network."""
    for position, run in enumerate(run["kept"] for run in runs.values()):
        bottom = 0.0
        for part, color in PARTS.items():
            height = run["by_part"].get(part, 0) / run["total"] * run["per_neuron_step"]
            axis.bar(position, height, 0.55, bottom, color=color, label="" if position else part)
            bottom += height
    bars(axis, runs, [run["kept"]["per_neuron_step"] for run in runs.values()], "{:.2f}")
    axis.set_title("Kept for backward, bytes per neuron and step")
    axis.legend(reverse=True, loc="upper left", bbox_to_anchor=(1, 1), handlelength=1, handleheight=1)


def milliseconds(axis, runs) -> None:
    """Median time of a training step."""
    heights = [run["step_ms"] for run in runs.values()]
    axis.bar(range(len(runs)), heights, 0.55, color=[COLORS[name] for name in runs])
    bars(axis, runs, heights, "{:.1f}")
    axis.set_title("Time per training step, ms (median)")


def bars(axis, runs, heights: list[float], style: str) -> None:
    """Only the bars, their names and their heights."""
    for position, height in enumerate(heights):
        place = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center"}
        axis.annotate(style.format(height), (position, height), weight="bold", **place)
    axis.set_xticks(range(len(runs)), [LABELS[name] for name in runs])
    axis.set_xlim(-0.6, len(runs) - 0.4)
    axis.set_yticks([])
    axis.tick_params(axis="x", length=0)
    axis.spines["left"].set_visible(False)
    axis.margins(y=0.14)
