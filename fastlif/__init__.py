"""fastlif: leaky integrate-and-fire layers for PyTorch, all steps fused into one kernel each way."""

from . import surrogate
from .functional import lif
from .info import info
from .memory import saved_bytes
from .neuron import Neuron
from .nn import IF, LI, LIF, PerStep, detach_state, reset_state
from .surrogate import ATan, FastSigmoid, PassThrough, Rectangle, Sigmoid, Triangle
from .version import __version__

__all__ = [
    "IF",
    "LI",
    "LIF",
    "ATan",
    "FastSigmoid",
    "Neuron",
    "PassThrough",
    "PerStep",
    "Rectangle",
    "Sigmoid",
    "Triangle",
    "__version__",
    "detach_state",
    "info",
    "lif",
    "reset_state",
    "saved_bytes",
    "surrogate",
]
