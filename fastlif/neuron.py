"""Neuron: every option of a leaky integrate-and-fire neuron, checked once and handed along unchanged.

Over steps t = 0 ... T-1, with membrane v[-1] = v0:

    charge   h[t] = decay * v[t-1] + gain * x[t] + bias
    fire     s[t] = h[t] >= threshold                    (fire_on_equal=False: h[t] > threshold)
    reset    soft:  v[t] = h[t] - reset_amount * s[t]    (delayed: the subtraction moves into h[t+1])
             hard:  v[t] = v_reset if s[t] else h[t]
             none:  v[t] = h[t]
"""

import math
import numbers
from dataclasses import dataclass, field

from .surrogate import KINDS, Surrogate, nearest, resolve

RESETS = ("none", "soft", "delayed", "hard")  # numbered as in csrc/neuron.h; "delayed" is soft with reset_delay
STATES = ("exact", "compact")
LONGEST = 2**62  # a window, so that kernels can count past its end


def _number(name: str, value: object, lowest: float = -math.inf, highest: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        finite = False
    if not finite or not lowest <= value <= highest:
        allowed = f"finite and in [{lowest:g}, {highest:g}]" if lowest > -math.inf else "finite"
        raise ValueError(f"{name} must be {allowed}, got {value}")
    return float(value)


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; {nearest(value, allowed)}")


def _windows(truncate: object) -> tuple[int, int]:
    """(k1, k2): windows of k1 steps whose last k2 carry gradient; (0, 0) for one window over all steps."""
    if truncate is None:
        return 0, 0
    pair = truncate if isinstance(truncate, (tuple, list)) else (truncate, truncate)
    if len(pair) != 2 or not all(isinstance(k, numbers.Integral) and not isinstance(k, bool) for k in pair):
        raise TypeError(f"truncate must be None, a step count k or a pair (k1, k2), got {truncate!r}")
    k1, k2 = pair
    if not 1 <= k2 <= k1 <= LONGEST:
        raise ValueError(f"truncate must satisfy 1 <= k2 <= k1 <= 2**62, got {truncate!r}")
    return int(k1), int(k2)


@dataclass(frozen=True)
class Neuron:
    """The options of `fastlif.lif`; `decay`, `gain` and `threshold` are None when they come beside it, as tensors."""

    decay: float | None = 0.5
    gain: float | None = 1.0
    bias: float = 0.0
    threshold: float | None = 1.0
    reset: str = "soft"
    reset_amount: float | None = None
    v_reset: float = 0.0
    reset_delay: bool = False
    detach_reset: bool = False
    surrogate: str | Surrogate = "triangle"
    fire_on_equal: bool = True
    truncate: int | tuple[int, int] | None = None
    state: str = "exact"
    spiking: bool = True  # False: the output is h itself, a leaky integrator

    kind: str = field(init=False, repr=False, compare=False)  # one of RESETS
    windows: tuple[int, int] = field(init=False, repr=False, compare=False)  # (k1, k2), (0, 0) without truncation
    values: tuple[float, ...] = field(init=False, repr=False, compare=False)  # the numbers as kernels take them
    options: tuple[int, ...] = field(init=False, repr=False, compare=False)  # the choices, in csrc/options.h's order

    def __post_init__(self):
        if self.decay is not None:
            _number("decay", self.decay, 0.0, 1.0)
        for name in ("gain", "threshold", "reset_amount"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name))
        for name in ("bias", "v_reset"):
            _number(name, getattr(self, name))
        for name in ("reset_delay", "detach_reset", "fire_on_equal", "spiking"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        _choice("reset", self.reset, ("soft", "hard", "none"))
        _choice("state", self.state, STATES)
        windows = _windows(self.truncate)
        if self.reset_delay and self.reset != "soft":
            raise ValueError(f"reset_delay=True needs reset='soft', got reset={self.reset!r}")
        object.__setattr__(self, "surrogate", resolve(self.surrogate))
        if isinstance(self.truncate, list):
            object.__setattr__(self, "truncate", tuple(self.truncate))
        kind = "delayed" if self.reset_delay else self.reset
        tied = self.reset_amount is None
        own = [0.0 if n is None else float(n) for n in (self.decay, self.gain, self.bias, self.threshold)]
        amount = own[3] if tied else float(self.reset_amount)
        flags = map(int, (tied, self.detach_reset, self.fire_on_equal, self.spiking))
        derived = {
            "kind": kind,
            "windows": windows,
            "values": (*own, amount, float(self.v_reset), *self.surrogate.numbers),
            "options": (RESETS.index(kind), KINDS.index(self.surrogate.kind), *flags, *windows),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
