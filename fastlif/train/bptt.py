"""Bptt: backpropagation through all steps, one update a batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..losses import sdt_loss
from .method import Outcome, require_finite


class Bptt:
    """A `Method`: loss(net(x), y), its gradient through all steps and layers, one step of the optimiser.

    Args:
        net: [T, B, ...] -> [T, B, classes].
        optimizer: over the parameters of `net`.
        schedule: a learning-rate scheduler of torch, advanced after every batch.
        loss: (outputs [T, B, classes], labels [B]) -> scalar; see `fastlif.losses`.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = sdt_loss,
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
