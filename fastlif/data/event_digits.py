"""event-digits: the digits as an event camera sees them while they move along a fixed path; nothing is downloaded.

Each image, enlarged to 12x12, is shown in a field of 16x16 pixels and moves, in 960 ticks, along the three sides of a
triangle of 3x3 pixels (three saccades, as N-MNIST's): up and right, down and right, and back. Brightness L_t in [0, 1]
is that of the bilinearly interpolated image, 0 outside it. Each pixel remembers the brightness R of its last event,
R = L_0 at first, and in tick t compares

    n = trunc((L_{t+1} - R) / THRESHOLD),    R <- R + n * THRESHOLD,    an event at time t if n != 0, polarity n > 0.

In one tick L changes by less than THRESHOLD, so n is -1, 0 or 1. Units are chosen so that all numbers are whole and
below 2**24: the events are the same bit for bit on every machine. A recording has about 560 of them.
"""

import functools
import os
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .augment import Roll
from .digits import read
from .encode import choose, time_first
from .events import Frames, binary, counts
from .parts import Data, Part

SIZE = (16, 16)
TICKS = 960
CORNERS = ((-1, 1), (0, -1), (1, 1))  # (x, y) of the path, in pixels of the image
PIXEL = 960  # units of length in a pixel of the image; divisible by the 320 ticks of a side, and by 6
THRESHOLD = 4 * PIXEL**2  # a quarter of full brightness, which is 16 * PIXEL**2
EVENT = np.dtype([("t", np.int16), ("x", np.uint8), ("y", np.uint8), ("p", np.bool_)])
VERSION = 1  # of the recordings in a cache: to be raised with any change of them


def event_digits(encode: str = "counts", scale: int = 1, period: int = 15) -> Data:
    """The images and parts of `digits`, as frames [T, 2, 16, 16] for any T; `fastlif.data.events` says what is in them.

    The recordings are made once a process, in some seconds; where $FASTLIF_CACHE names a folder, they are kept there.
    Training samples are varied by a move of up to a pixel each way.

    Args:
        encode: "counts" in T equal parts of the 960 ticks, or "binary" for the first T frames of `period` ticks.
        scale: how often each pixel is repeated each way; 3 makes frames of 48x48.
        period: length of a binary frame in ticks. The recording is over after 960 / period frames, by default 64; few
            of these show little, for the first of them are mostly empty.

    Raises:
        ModuleNotFoundError: scikit-learn is missing; the message says how to get it.
    """
    for name, value in (("scale", scale), ("period", period)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    frame = {
        "counts": functools.partial(counts, size=SIZE, span=(0, TICKS)),
        "binary": functools.partial(binary, size=SIZE, period=period, start=0),
    }
    make = Frames(frame[choose(encode, frame)], Roll(1))
    source, parts = recordings()
    shape = (2, SIZE[0] * scale, SIZE[1] * scale)
    name = "event-digits" if scale == 1 else f"event-digits-{shape[-1]}"
    train, validation, test = (Part(source, part, make) for part in parts)
    return Data(name, 10, shape, train, validation, test, encode=functools.partial(time_first, scale=scale))


class Recordings(Sequence):
    """(events, label) of every image: events [starts[i] : starts[i + 1]]."""

    def __init__(self, events: np.ndarray, starts: np.ndarray, labels: np.ndarray):
        self.events, self.starts, self.labels = events, starts, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.events[self.starts[index] : self.starts[index + 1]], int(self.labels[index])


@functools.cache
def recordings() -> tuple[Recordings, tuple[list[int], ...]]:
    """All recordings, and the positions of the three parts."""
    pixels, labels, parts = read()
    cache = os.environ.get("FASTLIF_CACHE")
    path = Path(cache).expanduser() / f"event-digits-{VERSION}.npz" if cache else None
    kept = load(path) if path else None
    if kept is None:
        kept = record(pixels.reshape(-1, 8, 8))
        if path:
            save(path, *kept)
    return Recordings(*kept, labels), parts


def record(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 8, 8] from 0 to 16 -> all their events, image by image in the order of time, and starts [N + 1]."""
    found = [record_some(images[first : first + 128]) for first in range(0, len(images), 128)]
    starts = np.cumsum(np.concatenate([[0], *(number for _, number in found)]))
    return np.concatenate([events for events, _ in found]), starts


def record_some(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 8, 8] -> all their events and how many each has, [N]; takes 246 kB an image while it works."""
    images = images.astype(np.float32)
    last = brightness(images, 0)
    fired = np.empty((TICKS, *last.shape), dtype=np.int8)
    for tick in range(TICKS):
        n = np.trunc((brightness(images, tick + 1) - last) / THRESHOLD)
        last += n * THRESHOLD
        fired[tick] = n
    image, t, y, x = np.nonzero(fired.swapaxes(0, 1))
    events = np.empty(len(t), dtype=EVENT)
    events["t"], events["x"], events["y"], events["p"] = t, x, y, fired[t, image, y, x] > 0
    return events, np.bincount(image, minlength=len(images))


def brightness(images: np.ndarray, tick: int) -> np.ndarray:
    """Images [N, 8, 8] -> what the field shows at the start of a tick, [N, 16, 16] from 0 to 16 * PIXEL**2."""
    side, along = divmod(tick, TICKS // 3)
    before, after = CORNERS[side % 3], CORNERS[(side + 1) % 3]
    x, y = (PIXEL * a + (b - a) * along * PIXEL // (TICKS // 3) for a, b in zip(before, after, strict=True))
    return interpolation(y) @ images @ interpolation(x).T


def interpolation(offset: int) -> np.ndarray:
    """Weights [16, 8], in units of 1 / PIXEL, of the image's pixels in the field's, the image `offset` units away.

    Pixel i of the field lies at (i - 7.5) * 2/3 + 3.5 pixels of the image at rest.
    """
    at = (2 * np.arange(16) - 15) * PIXEL // 3 + 7 * PIXEL // 2 - offset
    distance = np.abs(at[:, None] - PIXEL * np.arange(8))
    return np.maximum(PIXEL - distance, 0).astype(np.float32)


def load(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """What `save` wrote, or None if there is nothing whole."""
    try:
        with np.load(path) as file:
            return file["events"], file["starts"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def save(path: Path, events: np.ndarray, starts: np.ndarray) -> None:
    """Write them to `path`, whole or not at all; a warning if that cannot be."""
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            partial = Path(file.name)
            np.savez_compressed(file, events=events, starts=starts)
        partial.replace(path)
    except OSError as error:
        warnings.warn(f"the recordings of event-digits could not be kept in {path}: {error}", stacklevel=2)
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
