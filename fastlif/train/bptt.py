"""Bptt: backpropagation through all steps, one update a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .method import Outcome, require_finite


def mean_cross_entropy(outputs: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of the mean over time: outputs [T, B, classes], labels [B] -> scalar. TET's paper calls it SDT."""
    return functional.cross_entropy(outputs.mean(0), labels, label_smoothing=label_smoothing)


class Bptt:
    """A `Method`: loss(net(x), y), its gradient through all steps and layers, one step of the optimiser.

    Args:
        net: [T, B, ...] -> [T, B, classes].
        optimizer: over the parameters of `net`.
        schedule: a learning-rate scheduler of torch, advanced after every batch.
        loss: (outputs [T, B, classes], labels [B]) -> scalar.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = mean_cross_entropy,
    ):
        self.net, self.optimizer, self.schedule, self.loss = net, optimizer, schedule, loss

    def step(self, x: torch.Tensor, y: torch.Tensor) -> Outcome:
        """Learn from one batch, x [T, B, ...] and labels y [B]."""
        outputs = self.net(x)
        loss = self.loss(outputs, y)
        require_finite(loss)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return Outcome(loss.detach(), outputs.detach().mean(0))

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """The mean output over time, [B, classes]."""
        return self.net(x).mean(0)

    def state_dict(self) -> dict[str, Any]:
        """The states of optimiser and schedule."""
        schedule = None if self.schedule is None else self.schedule.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
