"""Encoders: samples without a time axis -> input over T steps."""

import torch


def direct(samples: torch.Tensor, steps: int) -> torch.Tensor:
    """The sample itself as the input current of every step: [B, ...] -> [T, B, ...], a view that takes no memory."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return samples.expand(steps, *samples.shape)
