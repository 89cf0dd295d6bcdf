"""PerStep: a module without a time axis, applied to every step at once."""

import torch
from torch import nn

from ..memory import spikes
from ..memory.packed import Packing


class PerStep(nn.Module):
    """Fold T into the batch, apply `module`, unfold: [T, B, ...] -> module on [T * B, ...] -> [T, B, ...].

    Convolution, linear and pooling inside keep spikes for backward as bits; compiled, those of layers in the same
    graph. Batch norm inside takes its statistics over time, batch and space. Several modules are applied one after the
    other; what they return must be one tensor, else TypeError.
    """

    def __init__(self, *modules: nn.Module):
        super().__init__()
        if not modules:
            raise ValueError("PerStep needs a module")
        self.module = modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [T, B, ...]."""
        if x.dim() < 2:
            raise ValueError(f"PerStep needs x [T, B, ...], got {list(x.shape)}")
        if not torch.is_grad_enabled() or spikes.known(x) is None:
            return self._fold(x)
        with Packing():
            return self._fold(x)

    def _fold(self, x):
        y = self.module(x.flatten(0, 1))
        if not isinstance(y, torch.Tensor):
            last = self.module[-1] if isinstance(self.module, nn.Sequential) else self.module
            returned = f"{type(last).__name__} returned a {type(y).__name__}"
            raise TypeError(f"PerStep needs modules that return one tensor, and {returned}")
        return y.unflatten(0, x.shape[:2])
