"""Data: what a data set is to the rest of fastlif."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from .encode import direct


@dataclass(frozen=True)
class Data:
    """Three fixed parts of (sample, label) pairs, how training batches are varied, and how batches become x.

    `shape` is that of x without time and batch. `augment(samples [B, ...], generator)` returns varied samples.
    `encode(samples [B, ...], steps, generator)` returns x [T, B, *shape]; see `fastlif.data.encode`.
    """

    name: str
    classes: int
    shape: tuple[int, ...]
    train: Dataset
    validation: Dataset
    test: Dataset
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None
    encode: Callable[[torch.Tensor, int, torch.Generator], torch.Tensor] = direct


@dataclass(frozen=True)
class Part(Dataset):
    """Samples made when they are read, in a worker if there are any: (make(raw, steps, seed), label).

    part[index] is the sample as it is; part[index, seed] is varied, by numbers that come from the seed alone.

    Args:
        source: (raw, label) pairs.
        indices: which of them.
        make: (raw, steps, seed or None) -> sample.
        steps: T, for samples that have a time axis.
    """

    source: Sequence[tuple[Any, int]]
    indices: Sequence[int]
    make: Callable[[Any, int, int | None], torch.Tensor]
    steps: int = 1

    @property
    def varied(self) -> bool:
        """Whether a seed changes a sample: `make` says so in an attribute of that name, or is taken to."""
        return getattr(self.make, "varies", True)

    def at(self, steps: int) -> "Part":
        """The same samples at another T."""
        return replace(self, steps=steps)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[torch.Tensor, int]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        raw, label = self.source[self.indices[index]]
        return self.make(raw, self.steps, seed), label


def labels_of(part: Dataset) -> np.ndarray:
    """The labels of all samples [N], without making samples where a part has labels apart."""
    if isinstance(part, TensorDataset):
        return part.tensors[1].numpy()
    if isinstance(part, Part):
        labels = getattr(part.source, "labels", None)
        if labels is not None:
            return np.asarray(labels)[np.asarray(part.indices)]
        return np.array([part.source[index][1] for index in part.indices])
    return np.array([int(label) for _, label in part])


def of_classes(data: Data, classes: np.ndarray) -> Data:
    """The data with those training samples alone that are of the classes, bool [classes]."""
    chosen = np.flatnonzero(classes[labels_of(data.train)]).tolist()
    if isinstance(data.train, Part):
        return replace(data, train=replace(data.train, indices=[data.train.indices[index] for index in chosen]))
    return replace(data, train=Subset(data.train, chosen))


def split(labels: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """The positions of (the rest, `share` of every class), the same ones whenever and wherever it is called.

    Args:
        labels: of all samples.
        share: at least 0 and below 1; what it makes of a class's samples is rounded.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share held out must be in [0, 1), got {share}")
    labels = np.asarray(labels)
    draw = np.random.RandomState(0)  # its numbers are the same in all versions of numpy
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        own = draw.permutation(np.flatnonzero(labels == label))
        held[own[: round(share * len(own))]] = True
    return np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist()
