"""Bars in groups: a figure of merit over windows by block size, costs by data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import style


def bars(plots: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw panels of bars side by side into an image at `path`.

    Args:
        plots: the arguments of `draw`, without the axis, for each panel.

    Raises:
        ValueError: no panel, or as `draw`.
    """
    if not plots:
        raise ValueError("plots is empty: there is nothing to draw")
    with style.figure(1, len(plots), (5.25 * len(plots), 3.9)) as (figure, axes):
        for axis, plot in zip(axes[0], plots, strict=True):
            draw(axis, **plot)
        style.save(figure, path)


def draw(
    axis,
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    ylabel: str,
    title: str | None = None,
    percent: bool = False,
) -> None:
    """A group of bars for each name, a bar in it for each series.

    Args:
        axis: of matplotlib.
        names: of the groups, [n].
        series: heights by name, each [n]; None leaves a gap.
        ylabel: what heights are, with units.
        title: above the panel.
        percent: heights are shares, shown in percent.

    Raises:
        ValueError: no names, no series, or one of another length than the names.
    """
    if not names or not series:
        raise ValueError("names and series must not be empty: there is nothing to draw")
    width = 0.8 / len(series)
    for place, (name, heights) in enumerate(series.items()):
        if len(heights) != len(names):
            raise ValueError(f"series {name!r} must have one height for each of {len(names)} names, got {len(heights)}")
        left = [group - 0.4 + width * (place + 0.5) for group in range(len(names))]
        axis.bar(left, style.numbers(heights), 0.92 * width, color=style.color(name, series), label=name)
    axis.axhline(0, color=style.FAINT, lw=0.8)
    axis.set_xticks(range(len(names)), names)
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel(ylabel)
    axis.set_title(title or "")
    style.grid(axis, percent)
    axis.legend(fontsize=8.5, ncols=min(4, len(series)), loc="upper center", bbox_to_anchor=(0.5, -0.1))
