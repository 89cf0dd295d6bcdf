"""PerStep: a module without a time axis, applied to every step at once."""

import torch
from torch import nn


class PerStep(nn.Module):
    """Fold T into the batch, apply `module`, unfold: [T, B, ...] -> module on [T * B, ...] -> [T, B, ...].

    Batch norm inside takes its statistics over time, batch and space. Several modules are applied one after the other.
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
        y = self.module(x.flatten(0, 1))
        return y.unflatten(0, x.shape[:2])
