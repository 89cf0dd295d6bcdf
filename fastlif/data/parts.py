"""Data: what a data set is to the rest of fastlif."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Data:
    """Three fixed parts of (sample, label) pairs, and how training batches are varied.

    `shape` is a sample's, without a time axis. `augment(samples [B, *shape], generator)` returns varied samples.
    """

    name: str
    classes: int
    shape: tuple[int, ...]
    train: Dataset
    validation: Dataset
    test: Dataset
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None
