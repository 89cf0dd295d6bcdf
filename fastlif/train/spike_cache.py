"""SpikeCache: the spikes of blocks that learn no more, as bits, so that these run once and not in every epoch."""

import math
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch

from ..memory.spikes import remember
from ..models import BlocNet
from .bloctrain import joined
from .method import autocast


class SpikeCache:
    """Batches (spikes [T, B, features], labels [B]) of what a block is given, shuffled anew in each pass.

    Args:
        net: its blocks before `number` run once, over `batches`.
        number: of the block that is to learn.
        batches: the samples, (x [T, B, ...], labels [B]), each once; gone through when the cache is first iterated.
        samples: how many there are.
        batch_size: of the batches that are given out; what is left over sits a pass out.
        generator: shuffles.
        limit: bytes at most.
        in_memory: bytes up to which the bits are kept in memory; else they lie in a file in `folder`, mapped into it.
        precision: torch.bfloat16 to run the blocks under autocast to it, as in training; None for none.

    Raises:
        ValueError: the cache would be larger than `limit`; batch_size is larger than `samples`.
    """

    def __init__(
        self,
        net: BlocNet,
        number: int,
        batches: Collection[tuple[torch.Tensor, torch.Tensor]],
        samples: int,
        batch_size: int,
        generator: torch.Generator,
        limit: float = 4e9,
        in_memory: float = 1e9,
        folder: Path = Path(),
        precision: torch.dtype | None = None,
    ):
        if batch_size > samples:
            raise ValueError(f"batch_size must be at most {samples}, the number of samples, got {batch_size}")
        self.net, self.number, self.batches, self.samples = net, number, batches, samples
        self.batch_size, self.generator, self.precision = batch_size, generator, precision
        self.steps, self.features = batches.steps, features_of(net, number)
        self.nbytes, self.rows, self.labels = spike_bytes(net, number, self.steps, samples), None, None
        self.file = folder / f"spikes-{number}" if self.nbytes > in_memory else None
        require_room(self.nbytes, samples, limit)

    def __len__(self) -> int:
        return self.samples // self.batch_size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self.rows is None:
            self.fill()
        order = torch.randperm(self.samples, generator=self.generator)
        device = next(self.net.parameters()).device
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[first : first + self.batch_size]
            bits = torch.from_numpy(self.rows[chosen.numpy()]).transpose(0, 1).contiguous().to(device)
            x = torch.ops.fastlif.unpack_spikes(bits.flatten(0, 1), *self.memory(len(chosen)), torch.float32)
            plane = bits.flatten(0, 1) if self.features % 8 == 0 else None  # then in one row too
            yield remember(x.view(self.steps, len(chosen), self.features), plane=plane), self.labels[chosen].to(device)

    def memory(self, samples: int) -> tuple[list[int], list[int]]:
        """Size and strides of the spikes of so many samples, a row for each step and sample."""
        return [self.steps * samples, self.features], [self.features, 1]

    def fill(self) -> None:
        """Run the blocks before over all samples."""
        shape = self.samples, self.steps, -(-self.features // 8)
        if self.file is None:
            self.rows = np.empty(shape, np.uint8)
        else:
            self.rows = np.memmap(self.file, np.uint8, "w+", shape=shape)
        labels, done = [], 0
        for x, y in self.batches:
            with autocast(x.device, self.precision):
                spikes = joined(self.net.feed(self.number, x)).transpose(0, 1).contiguous()
            bits = torch.ops.fastlif.pack_spikes(spikes, len(y) * self.steps)
            self.rows[done : done + len(y)] = bits.view(len(y), *shape[1:]).cpu().numpy()
            labels.append(y.cpu())
            done += len(y)
        self.labels = torch.cat(labels)


def features_of(net: BlocNet, number: int) -> int:
    """How many spikes block `number` is given of a sample in a step."""
    return sum(math.prod(net.shapes[source + 1]) for source in net.blocks[number].sources)


def spike_bytes(net: BlocNet, number: int, steps: int, samples: int) -> int:
    """Of what block `number` is given, as bits, those of a sample and step in whole bytes."""
    return -(-features_of(net, number) // 8) * steps * samples


def require_room(needed: int, samples: int, limit: float) -> None:
    """ValueError if the spikes of so many samples need more bytes than `limit`."""
    if needed > limit:
        raise ValueError(
            f"the spikes of {samples} samples need {needed / 1e6:.1f} MB, and the cache may have "
            f"{limit / 1e6:.1f} MB: give it more, or leave it out"
        )
