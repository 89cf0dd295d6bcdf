"""State: what a forward pass keeps for backward, in which format, for which steps, and in how many bytes.

All of it lies in one uint8 tensor: first the membranes at chunk borders (Keep.INPUT alone), then, from the next
multiple of 64 bytes, one row for every step that carries gradient. csrc/state.h lays it out the same way.
"""

import functools
from dataclasses import dataclass
from enum import IntEnum
from math import prod

import torch

from ..neuron import Neuron

CHUNK = 16  # steps between two stored membranes; backward recomputes one chunk at a time
ALIGNMENT = 64


class Keep(IntEnum):
    """What a row of the state holds for each neuron."""

    NOTHING = 0
    SPIKES = 1  # the spike's bit
    BITS = 2  # the spike's bit, and in a second plane whether z was inside the surrogate's window
    CODE = 3  # a byte: the spike, and 7 bits of abs(z) / width
    INPUT = 4  # x itself: saved by autograd, or copied here when truncation needs only some of its steps


def choose(neuron: Neuron, needs_grad: bool, decay_or_gain: bool, threshold: bool) -> Keep:
    """The smallest format that serves `neuron`; the flags say which gradients are asked for.

    Raises ValueError when state="compact" cannot: nothing larger is kept in its place.
    """
    if not needs_grad:
        return Keep.NOTHING
    kind = neuron.surrogate.kind
    through_h = neuron.reset == "hard" and not neuron.detach_reset  # backward then needs h itself
    k1, k2 = neuron.windows
    before_window = threshold and neuron.reset_delay and k2 < k1  # ... or the membrane before a window's first step
    if not (decay_or_gain or through_h or before_window):
        if kind == "rectangle":
            return Keep.BITS
        if kind == "pass_through":
            return Keep.SPIKES if threshold or neuron.reset == "hard" else Keep.NOTHING
    if neuron.state == "exact":
        return Keep.INPUT
    reasons = []
    if kind not in ("triangle", "rectangle"):
        reasons.append(f"it needs a surrogate with a window (triangle, rectangle), got {kind!r}")
    if decay_or_gain:
        reasons.append("decay and gain must need no gradient")
    if before_window:
        reasons.append("a threshold with gradient and reset_delay needs k2 == k1")
    if reasons:
        raise ValueError(f"state='compact' cannot serve this call: {'; '.join(reasons)}. Use state='exact'")
    return Keep.CODE


@dataclass(frozen=True)
class Chunk:
    """Steps start ... stop-1, kept in rows row, row+1, ...; `border` is the row of the membrane before, -1 for v0."""

    start: int
    stop: int
    row: int
    border: int


class Schedule:
    """Which of T steps carry gradient under truncation (k1, k2), and where what they keep lies.

    With k2 == k1 every step does, and chunks of CHUNK steps run across the windows; with k2 < k1 each window's last k2
    steps do, in chunks of their own.
    """

    def __init__(self, steps: int, windows: tuple[int, int]):
        k1, k2 = windows
        self.steps, self.cut, self.tail = steps, k1, k2
        self.whole = k1 == k2 or steps == 0
        if self.whole:
            self.rows = steps
            self.borders = (steps + CHUNK - 1) // CHUNK - 1 if steps != 0 else 0
        else:
            before = (steps - 1) // k1  # windows before the last
            last = steps - before * k1  # steps of the last window: 1 ... k1
            last -= (last + k1 - k2 - 1) // k1 * (last - k2)  # min(last, k2), as compilers can have it without a guard
            self.rows = before * k2 + last
            self.borders = before * ((k2 + CHUNK - 1) // CHUNK) + (last + CHUNK - 1) // CHUNK

    def chunks(self) -> list[Chunk]:
        """The chunks in the order of time."""
        if self.whole:
            starts = range(0, self.steps, CHUNK)
            return [Chunk(t, min(t + CHUNK, self.steps), t, i - 1) for i, t in enumerate(starts)]
        found, row = [], 0
        for window in range(0, self.steps, self.cut):
            stop = min(window + self.cut, self.steps)
            first = max(window, stop - self.tail)
            for t in range(first, stop, CHUNK):
                found.append(Chunk(t, min(t + CHUNK, stop), row + t - first, len(found)))
            row += stop - first
        return found

    def is_cut(self, t: int) -> bool:
        """Whether no gradient flows from step t+1 back to step t."""
        return self.cut > 0 and (t + 1) % self.cut == 0


def membrane_dtype(x_dtype: torch.dtype) -> torch.dtype:
    """float32 for every input but float64."""
    return torch.float64 if x_dtype == torch.float64 else torch.float32


class Layout:
    """Where borders and rows lie in the state, for x of `size` [T, ...] under the windows (k1, k2)."""

    def __init__(self, size, windows, keep: int, x_dtype: torch.dtype, normalized: bool = False):
        self.schedule = Schedule(size[0], windows)
        self.neurons = prod(size[1:])
        self.keep = keep
        self.x_dtype = x_dtype
        self.normalized = normalized
        self.compute = membrane_dtype(x_dtype)

    @property
    def copies_x(self) -> bool:
        """Whether the rows are copies of x's steps, because autograd should not keep the others.

        Batch norm has all of x anyway: its statistics carry gradient to every step.
        """
        return self.keep == Keep.INPUT and not self.schedule.whole and not self.normalized

    @property
    def plane(self) -> int:
        """Bytes of one step's spikes as bits."""
        return (self.neurons + 7) // 8

    @property
    def row_bytes(self) -> int:
        """Bytes of one step's row."""
        if self.keep in (Keep.SPIKES, Keep.BITS):
            return self.plane * int(self.keep)  # one plane or two
        if self.keep == Keep.CODE:
            return self.neurons
        return self.neurons * self.x_dtype.itemsize if self.copies_x else 0

    @property
    def rows_at(self) -> int:
        """Byte offset of row 0. Never 0 with Keep.INPUT: a size that may or may not be 0 would recompile per T."""
        if self.keep != Keep.INPUT:
            return 0
        borders = self.schedule.borders * self.neurons * self.compute.itemsize
        return (borders // ALIGNMENT + 1) * ALIGNMENT

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes of the whole state."""
        return self.rows_at + self.schedule.rows * self.row_bytes

    def borders_of(self, state: torch.Tensor) -> torch.Tensor:
        """The stored membranes, [borders, N]."""
        count = self.schedule.borders * self.neurons
        return state[: count * self.compute.itemsize].view(self.compute).view(-1, self.neurons)

    def rows_of(self, state: torch.Tensor) -> torch.Tensor:
        """The rows, [rows, ...]: uint8, or x's dtype where they are copies of it."""
        rows = state[self.rows_at :].view(self.schedule.rows, self.row_bytes)
        return rows.view(self.x_dtype) if self.copies_x else rows
