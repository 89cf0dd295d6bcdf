"""Surrogate derivatives: what backward uses in place of the derivative of the firing step.

Each is a function of z = h - threshold. A kernel sees a surrogate as its `kind` and two numbers, `scale` and `height`;
what they mean for each kind stands beside the formula.
"""

import difflib
import math
from dataclasses import dataclass

KINDS = ("triangle", "rectangle", "pass_through", "sigmoid", "atan", "fast_sigmoid")  # numbered as in csrc/neuron.h


def _positive(owner: object, **numbers: float) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value < math.inf):
            raise ValueError(f"{type(owner).__name__}({name}=...) must be a positive finite number, got {value!r}")


@dataclass(frozen=True)
class Triangle:
    """height * max(0, 1 - abs(z) / width); not zero where abs(z) < width. `height` is 1 / width unless given.

    TET: Triangle(gamma). BlocTrain and BackRes: Triangle(threshold, 0.3 / threshold).
    """

    width: float = 1.0
    height: float | None = None
    kind = "triangle"

    def __post_init__(self):
        _positive(self, width=self.width, **({} if self.height is None else {"height": self.height}))

    @property
    def numbers(self) -> tuple[float, float]:
        """scale = width (also the window), height."""
        return float(self.width), float(1 / self.width if self.height is None else self.height)


@dataclass(frozen=True)
class Rectangle:
    """1 / width where abs(z) < width / 2, else 0. Local truncated BPTT."""

    width: float = 1.0
    kind = "rectangle"

    def __post_init__(self):
        _positive(self, width=self.width)

    @property
    def numbers(self) -> tuple[float, float]:
        """scale = width / 2 (the window), height = 1 / width."""
        return self.width / 2, 1 / self.width


@dataclass(frozen=True)
class PassThrough:
    """height, everywhere. BlocTrain's integrate-and-fire after pooling: PassThrough(1 / threshold)."""

    height: float = 1.0
    kind = "pass_through"

    def __post_init__(self):
        _positive(self, height=self.height)

    @property
    def numbers(self) -> tuple[float, float]:
        """scale (unused), height."""
        return 1.0, float(self.height)


@dataclass(frozen=True)
class Sigmoid:
    """alpha * e / (1 + e)^2 with e = exp(-abs(alpha * z)). SpikingJelly's default."""

    alpha: float = 4.0
    kind = "sigmoid"

    def __post_init__(self):
        _positive(self, alpha=self.alpha)

    @property
    def numbers(self) -> tuple[float, float]:
        """scale = height = alpha."""
        return float(self.alpha), float(self.alpha)


@dataclass(frozen=True)
class ATan:
    """alpha / 2 / (1 + (pi / 2 * alpha * z)^2). SpikingJelly, snnTorch."""

    alpha: float = 2.0
    kind = "atan"

    def __post_init__(self):
        _positive(self, alpha=self.alpha)

    @property
    def numbers(self) -> tuple[float, float]:
        """scale = pi / 2 * alpha, height = alpha / 2."""
        return math.pi / 2 * self.alpha, self.alpha / 2


@dataclass(frozen=True)
class FastSigmoid:
    """1 / (1 + slope * abs(z))^2. SuperSpike: snnTorch, Norse."""

    slope: float = 25.0
    kind = "fast_sigmoid"

    def __post_init__(self):
        _positive(self, slope=self.slope)

    @property
    def numbers(self) -> tuple[float, float]:
        """scale = slope, height = 1."""
        return float(self.slope), 1.0


Surrogate = Triangle | Rectangle | PassThrough | Sigmoid | ATan | FastSigmoid
BY_NAME = {c.kind: c for c in (Triangle, Rectangle, PassThrough, Sigmoid, ATan, FastSigmoid)}


def nearest(word: object, allowed) -> str:
    """The end of an error message about an unknown name: what is allowed, and the nearest of it."""
    near = difflib.get_close_matches(str(word), allowed, n=1)
    return f"allowed: {', '.join(map(repr, allowed))}" + (f"; did you mean {near[0]!r}?" if near else "")


def resolve(surrogate: "str | Surrogate") -> Surrogate:
    """A surrogate by name ("triangle", with its defaults) or as it is."""
    if isinstance(surrogate, Surrogate):
        return surrogate
    if isinstance(surrogate, str) and surrogate in BY_NAME:
        return BY_NAME[surrogate]()
    raise ValueError(f"unknown surrogate {surrogate!r}; {nearest(surrogate, BY_NAME)}")
