"""Data sets by name, with fixed training, validation and test parts, and batches of them, time first."""

from ..surrogate import nearest
from .batches import Batches
from .digits import digits
from .encode import direct
from .parts import Data

DATA = {"digits": digits}


def load(name: str) -> Data:
    """The data set called `name`; ValueError with the nearest names if there is none."""
    if name not in DATA:
        raise ValueError(f"unknown data {name!r}; {nearest(name, DATA)}")
    return DATA[name]()


__all__ = ["DATA", "Batches", "Data", "digits", "direct", "load"]
