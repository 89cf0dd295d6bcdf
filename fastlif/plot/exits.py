"""Exits of a network of blocks: by confidence, and by block."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import style
from .bars import draw as draw_bars
from .lines import draw as draw_lines


def exits(
    found: Sequence[dict[str, Any]],
    classes: Sequence[dict[str, Any]],
    memory: Sequence[float],
    seconds: Sequence[float],
    path: str | Path,
) -> None:
    """Draw six panels into an image at `path` (BlocTrain, figures 5 to 7, 9 and 10).

    Args:
        found: `fastlif.analysis.AtExits` as dicts, one for each confidence.
        classes: as `fastlif.analysis.classes_of`, one for each block.
        memory: of each block, the memory of training end to end over the block's own.
        seconds: of each, those of an epoch.

    Raises:
        ValueError: nothing found.
    """
    if not found:
        raise ValueError("found is empty: there is nothing to draw")
    doubts = [max(1 - one["thresholds"]["conf"], 1e-6) for one in found]
    names = [f"block {number}" for number in range(1, len(classes) + 1)]

    def over(key):
        return doubts, [one[key] for one in found], None

    with style.figure(2, 3, (14, 7.6)) as (figure, axes):
        common = {"xlabel": "1 - confidence to leave", "log": True}
        draw_lines(axes[0, 0], {"accuracy": over("accuracy")}, ylabel="accuracy", title="Accuracy", **common)
        costs = {"operations, times fewer": over("fewer_operations"), "memory, times more": over("memory_overhead")}
        draw_lines(axes[0, 1], costs, ylabel="of end to end", title="An inference", percent=False, **common)
        leaving = {name: (doubts, [one["leaving"][place] for one in found], None) for place, name in enumerate(names)}
        draw_lines(axes[0, 2], leaving, ylabel="samples", title="Leaving at", **common)
        known = {"known": [len(one["knows"]) for one in classes], "hard": [len(one["hard"]) for one in classes]}
        draw_bars(axes[1, 0], names, known, "classes", "Classes")
        every = [f"block {number}" for number in range(1, len(memory) + 1)]
        draw_bars(axes[1, 1], every, {"end to end / block": list(memory)}, "times less", "Memory of training")
        draw_bars(axes[1, 2], names, {"median epoch": list(seconds)}, "s", "Time of training")
        style.save(figure, path)
