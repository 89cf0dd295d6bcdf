"""BlocTrain: one block of a network learns, from the spikes of those before it, which stay as they are."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..memory import spikes
from ..memory.saved import SavedBytes, saved_bytes
from ..models import BlocNet, Thresholds
from ..ops.state import membrane_dtype
from .distributed import total
from .method import Outcome, autocast, require_finite


class BlocTrain:
    """A `Method`: cross-entropy of classifier and detector, and its gradient through one block (algorithm 2).

    Args:
        net: a `fastlif.models.BlocNet` with exits.
        block: the number of the block that learns, from 0.
        optimizers: makes the optimizer from the block's parameters.
        schedules: makes the learning-rate scheduler; advanced after every batch.
        cached: batches are what `SpikeCache` gives, not the network's input.
        precision: torch.bfloat16 to run the block under autocast to it; None for none.
        parallel: what is called in the place of the block to learn, made from it, as DistributedDataParallel around it;
            where it makes None, the block itself.

    Raises:
        ValueError: no network of blocks with exits, no such block; labels of classes that the block does not know, in
            `step`.
    """

    def __init__(
        self,
        net: BlocNet,
        block: int,
        optimizers: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        schedules: Callable[[torch.optim.Optimizer], Any] | None = None,
        cached: bool = False,
        precision: torch.dtype | None = None,
        parallel: Callable[[nn.Module], nn.Module | None] | None = None,
    ):
        if not isinstance(net, BlocNet) or not net.exits:
            raise ValueError(f"blocks need a network of blocks with exits (bloc-...), not {type(net).__name__}")
        if not 0 <= block < len(net.blocks):
            raise ValueError(f"block must be in [0, {len(net.blocks)}), got {block}")
        if precision == torch.float16:
            raise ValueError("precision must be bfloat16 or none: blocks have no scaled losses, which float16 needs")
        self.net, self.block, self.cached, self.precision = net, block, cached, precision
        self.learning = net.blocks[block]
        self._called = (parallel and parallel(self.learning)) or self.learning
        self.optimizer = optimizers(list(self.learning.parameters()))
        self.schedule = None if schedules is None else schedules(self.optimizer)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> Outcome:
        """Learn from one batch, x [T, B, ...] and labels y [B], all of classes that the block knows."""
        known = self.net.known(self.block)
        if not known[y].all():
            raise ValueError(f"block {self.block} knows classes {known.nonzero().flatten().tolist()}, got others")
        with autocast(x.device, self.precision):
            logits, hard = self._called(*self.sources(x))
        wide = membrane_dtype(logits.dtype)
        logits = logits.to(wide).masked_fill(~known, -torch.inf)
        loss = functional.cross_entropy(logits, y)
        if hard is not None:
            labels = self.net.hard[self.block][y].to(wide)
            loss = loss + functional.binary_cross_entropy_with_logits(hard.to(wide), labels)
        require_finite(loss)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return Outcome(loss.detach(), logits.detach())

    def sources(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the block is given: spikes of the blocks before it, run now or taken from the cache."""
        if not self.cached:
            with autocast(x.device, self.precision):
                return self.net.feed(self.block, x)
        return unjoin(self.net, self.block, x)

    @torch.no_grad()
    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """1 for the answer and 0 for the other classes, [B, classes], by algorithm 3 with all blocks up to this one."""
        with autocast(x.device, self.precision):
            if x.dim() == 3:  # from the cache: this block's own answer
                return self.learning(*self.sources(x))[0].float().masked_fill(~self.net.known(self.block), -torch.inf)
            answers = self.net.infer(x, depth=max(self.block + 1, self.net.depth)).answers
        return functional.one_hot(answers, self.net.classes).float()

    def kept(self, x: torch.Tensor) -> tuple[nn.Module, torch.Tensor, SavedBytes]:
        """The block that keeps most for backward of x [T, B, ...], its input, and what it keeps."""
        found = []
        for number, block in enumerate(self.net.blocks):
            *earlier, h = self.net.feed(number, x)
            given = Given(block, earlier)
            found.append((given, h, saved_bytes(given, h)))
        return max(found, key=lambda one: one[2].total)

    def state_dict(self) -> dict[str, Any]:
        """The states of optimizer and schedule."""
        schedule = None if self.schedule is None else self.schedule.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])


class Given(nn.Module):
    """A block with all that it is given but the spikes of the block before it."""

    def __init__(self, block: nn.Module, earlier: list[torch.Tensor]):
        super().__init__()
        self.block, self.earlier = block, earlier

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x: those spikes, [T, B, ...]."""
        return self.block(*self.earlier, x)


def joined(sources: list[torch.Tensor]) -> torch.Tensor:
    """Spikes of several blocks, [T, B, ...] each, as one [T, B, features]."""
    return torch.cat([one.flatten(2) for one in sources], 2)


def unjoin(net: BlocNet, number: int, x: torch.Tensor) -> list[torch.Tensor]:
    """What block `number` is given, from `joined`; known to be spikes."""
    shapes = [net.shapes[source + 1] for source in net.blocks[number].sources]
    parts = x.split([channels * height * width for channels, height, width in shapes], 2)
    given = [part.reshape(*x.shape[:2], *shape) for part, shape in zip(parts, shapes, strict=True)]
    return given if spikes.known(given[0]) is not None else [spikes.remember(one.contiguous()) for one in given]


def class_accuracies(
    net: BlocNet,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    depth: int | None = None,
    thresholds: Thresholds | None = None,
) -> torch.Tensor:
    """The share of right answers of every class, [classes], by algorithm 3 with so many blocks; NaN without samples."""
    right, samples = torch.zeros(net.classes), torch.zeros(net.classes)
    for x, y in batches:
        answers = net.infer(x, thresholds, depth).answers
        samples += torch.bincount(y.cpu(), minlength=net.classes)
        right += torch.bincount(y[answers == y].cpu(), minlength=net.classes)
    right, samples = total(torch.stack([right, samples]))
    return right / samples


def split_classes(
    net: BlocNet, number: int, accuracies: torch.Tensor, hardness: float | None = None, deviations: float = -1.0
) -> float:
    """Block `number` is trained: divide its hard classes in easy and hard ones, which become net.hard[number + 1].

    Hard are those below the hardness threshold: `hardness`, or the mean of the accuracies of the classes to be divided
    and so many of their standard deviations (section 6.1: -1 for mostly easy classes, 0.5 for mixed ones, 1 for mostly
    hard ones). Returns the threshold.

    Args:
        accuracies: of every class on the validation part, with the blocks up to this one.

    Raises:
        ValueError: a class to be divided has no samples there.
    """
    known = net.hard[number]
    own = accuracies[known.cpu()].double()
    if own.isnan().any():
        missing = (known.cpu() & accuracies.isnan()).nonzero().flatten().tolist()
        raise ValueError(
            f"the validation part has no samples of classes {missing}: nothing tells whether they are hard"
        )
    if hardness is None:
        hardness = (own.mean() + deviations * own.std(correction=0)).item() if len(own) else 0.0
    net.hard[number + 1] = known & (accuracies < hardness).to(known.device)
    return hardness
