"""Batches: a part of a data set as (x [T, B, ...], labels [B]) on a device."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from .encode import direct


class Batches:
    """Iterate over `part` in batches; each pass draws anew from `generator`.

    Args:
        part: (sample, label) pairs.
        batch_size: samples a batch; in a shuffled pass all batches have as many, the remainder sits that pass out.
        steps: T.
        device: where batches go.
        generator: shuffles the samples and feeds `augment`; in order and as they are without.
        augment: as in `Data`.
    """

    def __init__(
        self,
        part: Dataset,
        batch_size: int,
        steps: int,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        augment=None,
    ):
        shuffled = generator is not None
        if shuffled and batch_size > len(part):
            raise ValueError(f"batch_size must be at most {len(part)}, the size of the training part, got {batch_size}")
        self.loader = DataLoader(part, batch_size, shuffle=shuffled, drop_last=shuffled, generator=generator)
        self.steps, self.device, self.generator, self.augment = steps, device, generator, augment

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for samples, labels in self.loader:
            if self.augment is not None and self.generator is not None:
                samples = self.augment(samples, self.generator)
            yield direct(samples.to(self.device), self.steps), labels.to(self.device)
