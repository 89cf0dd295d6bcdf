"""Batches: a part of a data set as (x [T, B, ...], labels [B]) on a device."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .encode import at_least_one, direct
from .parts import Data, Part


class Batches:
    """Iterate over `part` in batches; each pass draws anew from `generator`.

    Args:
        part: (sample, label) pairs.
        batch_size: samples a batch; in a shuffled pass all batches have as many, the remainder sits that pass out.
        steps: T.
        device: where batches go.
        generator: shuffles the samples, varies them, and feeds `encode`; without, they come in order and as they are,
            and `encode` draws the same numbers in every pass.
        augment, encode: as in `Data`.
        workers: processes that read the samples of a `Part`, which do not depend on how many there are; what is in
            memory, as all other data sets are, is read without.

    Raises:
        RuntimeError: while iterating, if a worker dies.
    """

    def __init__(
        self,
        part: Dataset,
        batch_size: int,
        steps: int,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        augment=None,
        encode=direct,
        workers: int = 0,
    ):
        shuffled = generator is not None
        if shuffled and batch_size > len(part):
            raise ValueError(f"batch_size must be at most {len(part)}, the size of the training part, got {batch_size}")
        self.steps, self.device, self.generator = at_least_one(steps), device, generator
        self.augment, self.encode = augment, encode
        if isinstance(part, Part):
            self.loader = DataLoader(
                part.at(steps),
                batch_size,
                sampler=Shuffled(len(part), generator) if shuffled else range(len(part)),
                drop_last=shuffled,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=torch.device(device).type == "cuda",
                generator=torch.Generator(),  # for its workers, which draw nothing: leaves torch's own generator alone
            )
        else:
            self.loader = DataLoader(part, batch_size, shuffle=shuffled, drop_last=shuffled, generator=generator)

    @classmethod
    def of(cls, data: Data, part: str, batch_size: int, steps: int, *args, **options) -> "Batches":
        """Batches of `data`'s "train", "validation" or "test" part, varied and encoded as `data` says."""
        options = {"augment": data.augment, "encode": data.encode, **options}
        return cls(getattr(data, part), batch_size, steps, *args, **options)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0) if self.generator is None else self.generator
        for samples, labels in self.read():
            if self.augment is not None and self.generator is not None:
                samples = self.augment(samples, self.generator)
            x = self.encode(samples.to(self.device, non_blocking=True), self.steps, generator)
            yield x, labels.to(self.device, non_blocking=True)

    def read(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """What the loader gives; where torch lets a worker's death show as a lost connection, an error that says it."""
        try:
            yield from self.loader
        except (ConnectionError, EOFError) as error:
            if not self.loader.num_workers:
                raise
            raise RuntimeError(f"a worker that reads samples has died, or cannot be reached ({error})") from error


class Shuffled(Sampler):
    """(index, seed) of every sample in a random order; all is drawn before the first one is handed out."""

    def __init__(self, length: int, generator: torch.Generator):
        self.length, self.generator = length, generator

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.randperm(self.length, generator=self.generator).tolist()
        seeds = torch.randint(2**63 - 1, (self.length,), generator=self.generator).tolist()
        yield from zip(order, seeds, strict=True)
