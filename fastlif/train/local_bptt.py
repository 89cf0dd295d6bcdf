"""LocalBPTT: local truncated backpropagation through time, block by block and window by window."""

import contextlib
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..losses import rate_mse_loss
from ..memory.saved import SavedBytes, saved_bytes
from ..memory.spikes import decode, encode, known, remember
from ..nn import Stateful, detach_state, reset_state
from .local_blocks import Classifier, Unit, units_of
from .method import Outcome, autocast, require_finite

Windows = int | tuple[int, int]


class LocalBPTT:
    """A `Method`: the network in blocks, each with a classifier and a loss of its own, learns window by window.

    In each window of k steps every block in turn runs all of them in one call, its classifier's mean firing rate is
    compared with the label, and the gradient goes back through this block alone and to the window's first step; then
    its graph is freed, and the next block is given its spikes. Membranes go on from window to window. (Local truncated
    BPTT, section 2.2, whose networks run step by step and have the graphs of k - 1 steps of all blocks alive at once;
    here it is one block's at any k.)

    Args:
        net: has `stages`, an nn.Sequential, and a `readout` whose neurons put out the spikes, [T, B, classes], that are
            the scores, as the networks of that paper in `fastlif.models`. All its neurons are fastlif's.
        optimizers: makes the optimizer of one block from its parameters.
        window: k, or (k1, k2): windows of k1 steps of which the last k2 carry gradient. The last window of a sample is
            shorter where k1 does not divide T. Batch norm takes the statistics of a window's last k2 steps, and of the
            ones before apart.
        block: n, how many layers with weights a block has; None for one block of all.
        classifiers: makes the classifier of a block, [T, B, ...] -> spikes [T, B, classes], from the features of its
            output, the number of classes and its number. The last block has the network's readout.
        schedules: makes the learning-rate scheduler of one optimizer; advanced after every batch.
        loss: (the classifier's spikes [k, B, classes], labels [B]) -> scalar; see `fastlif.losses`.
        update: "window": an optimizer's step follows every window; "sample": it follows the last one, with the sum of
            all windows' gradients.
        precision: torch.bfloat16 to run the network under autocast to it; None for none.
        parallel: what is called in the place of a block to learn, made from it, as DistributedDataParallel around it;
            where it makes None, the block itself.

    Raises:
        TypeError: a window of other numbers than integers.
        ValueError: a window below 1, k2 > k1, k1 > T (in `step`); blocks that cannot be made so; no neurons that carry
            their membrane.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizers: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        window: Windows,
        block: int | None = None,
        classifiers: Callable[[int, int, int], nn.Module] = Classifier,
        schedules: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = rate_mse_loss,
        update: str = "window",
        precision: torch.dtype | None = None,
        parallel: Callable[[nn.Module], nn.Module | None] | None = None,
    ):
        if update not in ("window", "sample"):
            raise ValueError(f"update must be 'window' or 'sample', got {update!r}")
        if precision == torch.float16:
            raise ValueError("precision must be bfloat16 or none: blocks have no scaled losses, which float16 needs")
        self.net, self.loss, self.update = net, loss, update
        self.length, self.carries = both(window)
        self.precision = precision
        self.units = units_of(net, block, classifiers)
        self._learning = [(parallel and parallel(unit)) or unit for unit in self.units]
        learned = [[p for p in unit.parameters() if p.requires_grad] for unit in self.units]
        self.optimizers = [optimizers(parameters) for parameters in learned]
        made = [] if schedules is None else [schedules(optimizer) for optimizer in self.optimizers]
        self.schedules = [schedule for schedule in made if schedule is not None]

    def step(self, x: torch.Tensor, y: torch.Tensor) -> Outcome:
        """Learn from one batch, x [T, B, ...] and labels y [B]."""
        steps = len(x)
        if self.length > steps:
            raise ValueError(f"a window must be at most T = {steps} steps, got {self.length}")
        losses, rate = [], 0.0
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with carrying(self.units):
            for start in range(0, steps, self.length):
                h = x[start : start + self.length]
                for unit, optimizer in zip(self._learning, self.optimizers, strict=True):
                    h, outputs, loss = self.learn(unit, h, y)
                    losses.append(loss)
                    if self.update == "window":
                        optimizer.step()
                        optimizer.zero_grad()
                rate = rate + outputs.sum(0) / steps
        if self.update == "sample":
            for optimizer in self.optimizers:
                optimizer.step()
        for schedule in self.schedules:
            schedule.step()
        return Outcome(torch.stack(losses).mean(), rate)

    def learn(self, unit: nn.Module, h: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One block over one window, and its gradient: (spikes for the next block, the classifier's, the loss)."""
        head = max(0, len(h) - self.carries)
        before = []
        with autocast(h.device, self.precision):
            if head:
                with torch.no_grad():
                    before.append(unit(h[:head]))
            outputs, spikes = unit(h[head:])
        whole = torch.cat([*(earlier for earlier, _ in before), outputs])
        whole = whole if self.precision is None else whole.float()
        loss = self.loss(whole, y)
        require_finite(loss)
        codes = None
        if known(spikes) is not None:  # only the next block wants them dense: not while this one's graph is there
            (codes, recipe), spikes = encode(spikes), None
        loss.backward()
        detach_state(unit)
        spikes = spikes.detach() if codes is None else remember(decode(codes, recipe), recipe.kind, codes)
        if before:
            spikes = torch.cat([before[0][1], spikes])
        return spikes, whole.detach(), loss.detach()

    @torch.no_grad()
    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """The firing rates of the network's readout over all T steps, [B, classes]."""
        reset_state(self.net)
        with autocast(x.device, self.precision):
            outputs = self.net(x)
        return (outputs if self.precision is None else outputs.float()).mean(0)

    def kept(self, x: torch.Tensor) -> tuple[Unit, torch.Tensor, SavedBytes]:
        """Of the first windows of x [T, B, ...]: the block that keeps most for backward, its input, and what it keeps.

        From the second window on the membranes that it starts from may be kept too.
        """
        found = []
        with carrying(self.units), autocast(x.device, self.precision):
            for window in x[: 2 * self.length].split(self.length):
                cut = max(0, len(window) - self.carries)
                head, h = window[:cut], window[cut:]
                for unit in self.units:
                    if cut:
                        with torch.no_grad():
                            head = unit(head)[1]
                    found.append((unit, h, saved_bytes(unit, h)))
                    detach_state(unit)
                    h = unit.block(h).detach()
                    detach_state(unit)
        return max(found, key=lambda one: one[2].total)

    def state_dict(self) -> dict[str, Any]:
        """The local classifiers, and the states of all optimizers and schedules."""
        return {
            "classifiers": [unit.classifier.state_dict() for unit in self.units[:-1]],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.load_classifiers(state)
        for name, own in (("optimizers", self.optimizers), ("schedules", self.schedules)):
            for one, its in zip(own, state[name], strict=True):
                one.load_state_dict(its)

    def load_classifiers(self, state: dict[str, Any]) -> None:
        """Those of `state_dict()` alone, for a next phase with optimizers of its own."""
        for unit, its in zip(self.units[:-1], state["classifiers"], strict=True):
            unit.classifier.load_state_dict(its)


def both(window: Windows) -> tuple[int, int]:
    """(k1, k2), checked."""
    given = tuple(window) if isinstance(window, (tuple, list)) else (window, window)
    if any(isinstance(k, bool) or not isinstance(k, numbers.Integral) for k in given):
        raise TypeError(f"window must be k or (k1, k2), integers, got {window!r}")
    if len(given) != 2 or not 1 <= given[1] <= given[0]:
        raise ValueError(f"window must be k or (k1, k2) with 1 <= k2 <= k1, got {window!r}")
    return given


@contextlib.contextmanager
def carrying(units: list[Unit]) -> Iterator[None]:
    """Inside: all neurons go on from call to call, from rest; afterwards they are at rest, and as they were."""
    layers = {module for unit in units for module in unit.modules() if isinstance(module, Stateful)}
    before = {layer: layer.carry_state for layer in layers}
    for layer in layers:
        layer.reset_state()
        layer.carry_state = True
    try:
        yield
    finally:
        for layer, carried in before.items():
            layer.reset_state()
            layer.carry_state = carried
