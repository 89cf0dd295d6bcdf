"""fastlif: leaky integrate-and-fire layers for PyTorch, all steps fused into one kernel each way."""

from . import surrogate
from .functional import lif
from .neuron import Neuron

__all__ = ["Neuron", "lif", "surrogate"]
