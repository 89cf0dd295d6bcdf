"""The training loop: epochs of batches handed to a method. It knows nothing of losses, gradients or updates."""

import statistics
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch

from ..nn import evaluating
from .distributed import share_buffers, total
from .measure import synchronize
from .method import Method, NotFiniteError, Outcome, first_not_finite, not_finite

Batch = tuple[torch.Tensor, torch.Tensor]  # x [T, B, ...], labels [B]


@dataclass
class Epoch:
    """One pass over the training batches: T, mean loss, shares of right answers, the median time of a step, and the
    seconds of all steps and of what reads and prepares their batches."""

    number: int
    steps: int = 0
    loss: float = 0.0
    accuracy: float | None = None
    validation_accuracy: float | None = None
    step_ms: float = 0.0
    seconds: float = 0.0


def fit(
    method: Method,
    train: Collection[Batch],
    epochs: int,
    validation: Collection[Batch] | None = None,
    on_step: Callable[[Outcome], None] | None = None,
    first: int = 1,
) -> Iterator[Epoch]:
    """Train epoch by epoch, handing out each `Epoch` when it is over; stop iterating to stop training.

    Args:
        method: what learns.
        train, validation: batches (x [T, B, ...], labels [B]), iterated anew in every epoch.
        epochs: how many; numbered from 1.
        first: the number to begin with, where earlier ones are done.
        on_step: called after every batch.

    Raises:
        NotFiniteError: a loss is NaN or infinite, and the message says in which batch and layer; or a parameter is at
            the end of an epoch. The weights are those that the method had when it raised.
    """
    if not len(train):
        raise ValueError("there are no batches to train on")
    for number in range(first, epochs + 1):
        method.net.train()
        epoch, losses, seconds, counts, start = Epoch(number), [], [], [], time.perf_counter()
        for index, (x, y) in enumerate(train, start=1):
            began = time.perf_counter()
            try:
                outcome = method.step(x, y)
            except NotFiniteError as error:
                where = f"epoch {number}, batch {index} of {len(train)}"
                raise NotFiniteError(f"{where}: {error}; {first_not_finite(method.net, x, method.predict)}") from None
            synchronize(x.device)
            seconds.append(time.perf_counter() - began)
            losses.append(outcome.loss)
            if outcome.scores is not None:
                counts.append(counted(outcome.scores, y))
            if on_step is not None:
                on_step(outcome)
        if broken := not_finite(method.net):
            raise NotFiniteError(f"epoch {number}: {broken} is not finite: the last updates broke it")
        epoch.steps, epoch.step_ms = len(x), 1000 * statistics.median(seconds)
        epoch.seconds = time.perf_counter() - start
        mean, processes = total(torch.stack([torch.stack(losses).mean(), torch.ones_like(losses[0])])).tolist()
        epoch.loss = mean / processes
        epoch.accuracy = share(counts) if counts else None
        epoch.validation_accuracy = None if validation is None else evaluate(method, validation)
        yield epoch


def evaluate(method: Method, batches: Collection[Batch]) -> float:
    """The share of right answers, with the network in evaluation mode (and back in its own afterwards)."""
    if not len(batches):
        raise ValueError("there are no batches to evaluate on")
    share_buffers(method.net)
    with evaluating(method.net):
        return share([counted(method.predict(x), y) for x, y in batches])


def counted(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[right answers, answers] of scores [B, classes]."""
    right = (scores.argmax(-1) == labels).sum()
    return torch.stack([right, torch.full_like(right, len(labels))])


def share(counts: list[torch.Tensor]) -> float:
    """The share of right answers, in all processes together."""
    right, answers = total(torch.stack(counts).sum(0)).tolist()
    return right / answers
