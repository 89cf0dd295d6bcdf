"""fastlif: leaky integrate-and-fire layers for PyTorch, all steps fused into one kernel each way."""

from . import losses, surrogate
from .batch_norm import batch_norm_lif
from .functional import lif
from .info import info
from .memory import checkpoint_time, compact, plan, saved_bytes
from .neuron import Neuron
from .nn import IF, LI, LIF, BatchNormLIF, PerStep, detach_state, fuse_bn, reset_state
from .surrogate import ATan, FastSigmoid, PassThrough, Rectangle, Sigmoid, Triangle
from .version import __version__

__all__ = [
    "IF",
    "LI",
    "LIF",
    "ATan",
    "BatchNormLIF",
    "FastSigmoid",
    "Neuron",
    "PassThrough",
    "PerStep",
    "Rectangle",
    "Sigmoid",
    "Triangle",
    "__version__",
    "batch_norm_lif",
    "checkpoint_time",
    "compact",
    "detach_state",
    "fuse_bn",
    "info",
    "lif",
    "losses",
    "plan",
    "reset_state",
    "saved_bytes",
    "surrogate",
]
