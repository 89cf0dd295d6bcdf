"""What a trained network is like: accuracy at every moment, and the loss around its weights."""

from .exits import AtExits, at_confidences, classes_of
from .landscape import Landscape, loss_landscape
from .moments import OverTime, accuracy_over_time, variance

__all__ = [
    "AtExits", "Landscape", "OverTime", "accuracy_over_time", "at_confidences", "classes_of", "loss_landscape",
    "variance",
]  # fmt: skip
