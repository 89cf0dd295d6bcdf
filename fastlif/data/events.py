"""Events of a camera that reports changes of brightness, and the two ways in which they become frames.

Events are a numpy structured array with the fields t (time, in the recording's own unit), x, y (column and row) and p
(whether brightness rose). Frames are float32 [T, 2, height, width]; channel 0 holds the events
where brightness fell, channel 1 those where it rose.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .encode import at_least_one


def counts(events: np.ndarray, steps: int, size: tuple[int, int], span: tuple[int, int] | None = None) -> torch.Tensor:
    """How many events each pixel has in each of T equal parts of the recording.

    Part i has the times start + length * [i, i+1) / T; where T does not divide the length, some are a unit longer.

    Args:
        events: as above.
        steps: T.
        size: (height, width).
        span: (start, length) of the recording; from its first event to its last unless given. What is outside is not
            counted.
    """
    start, length = span or whole(events)
    return frames(events, (events["t"].astype(np.int64) - start) * at_least_one(steps) // length, steps, size)


def binary(
    events: np.ndarray, steps: int, size: tuple[int, int], period: int, start: int | None = None
) -> torch.Tensor:
    """Whether each pixel has an event in each of the first T periods; periods after the recording's end are empty.

    Args:
        events, steps, size: as for `counts`.
        period: length of a frame, in the unit of the events' times.
        start: when the first frame begins; with the first event unless given.
    """
    if period < 1:
        raise ValueError(f"period must be at least 1, got {period}")
    start = whole(events)[0] if start is None else start
    index = (events["t"].astype(np.int64) - start) // period
    return frames(events, index, at_least_one(steps), size).clamp_(max=1)


def whole(events: np.ndarray) -> tuple[int, int]:
    """(start, length) from the first event to the last, both included."""
    if not len(events):
        return 0, 1
    first, last = int(events["t"].min()), int(events["t"].max())
    return first, last - first + 1


def frames(events: np.ndarray, index: np.ndarray, steps: int, size: tuple[int, int]) -> torch.Tensor:
    """The number of events at each pixel of each frame, [T, 2, height, width], event i belonging to frame index[i]."""
    height, width = size
    kept = (index >= 0) & (index < steps)
    index, events = index[kept], events[kept]
    x, y, p = (events[field].astype(np.int64) for field in ("x", "y", "p"))
    if len(events) and (min(x.min(), y.min()) < 0 or x.max() >= width or y.max() >= height):
        raise ValueError(f"there are events outside {width}x{height} pixels, at x {x.max()} or y {y.max()}")
    place = ((index * 2 + p) * height + y) * width + x
    found = np.bincount(place, minlength=steps * 2 * height * width)
    return torch.from_numpy(found).view(steps, 2, height, width).float()


@dataclass(frozen=True)
class Frames:
    """Makes events into frames, for `Part`: frame(events, steps), and where there is a seed and a `vary`,
    vary(frames, generator) of that.
    """

    frame: Callable[[np.ndarray, int], torch.Tensor]
    vary: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None

    @property
    def varies(self) -> bool:
        """Whether a seed makes a difference."""
        return self.vary is not None

    def __call__(self, events: np.ndarray, steps: int, seed: int | None) -> torch.Tensor:
        made = self.frame(events, steps)
        if seed is None or self.vary is None:
            return made
        return self.vary(made, torch.Generator().manual_seed(seed))
