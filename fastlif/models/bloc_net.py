"""BlocNet: blocks that answer one after the other, each for the classes it knows (BlocTrain, Srinivasan & Roy 2021)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..nn import LIF, PerStep
from ..surrogate import Triangle
from .bloc import Bloc, Plan
from .network import check


def neurons(**options) -> LIF:
    """BlocTrain's neurons (sections 3 and 4): u[t] = 0.99*u[t-1] + I[t] - s[t-1], a spike above 1, dampened triangle.

    The leak and the dampening are not in the text; 0.99 is a choice, 0.3 that of Bellec et al. 2018, whom it follows.
    """
    usual = {"decay": 0.99, "reset_delay": True, "fire_on_equal": False, "surrogate": Triangle(1.0, 0.3)}
    return LIF(**usual | options)


@dataclass(frozen=True)
class Thresholds:
    """When a sample leaves (section 4.2): probabilities, low <= high.

    conf: with so much confidence of the classifier; the paper's ln(1e-4) is 1 - 1e-4.
    high: with less of the detector that it is of a hard class.
    low: with less of it, an answer that is a hard class is refined to the most probable easy one.
    """

    conf: float = 0.9999
    high: float = 0.5
    low: float = 0.05

    def __post_init__(self):
        if not 0 <= self.conf <= 1:
            raise ValueError(f"conf must be in [0, 1], got {self.conf}")
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low and high must be 0 <= low <= high <= 1, got low={self.low}, high={self.high}")


@dataclass(frozen=True)
class Exits:
    """Of each sample: answers [B], the class; blocks [B], the number (from 0) of the block that gave it."""

    answers: torch.Tensor
    blocks: torch.Tensor


class BlocNet(nn.Module):
    """Blocks with exits, or (`exits=False`) the same layers end to end, with the last block's classifier alone.

    Which classes a block knows is part of the state: hard[i], [classes], is the paper's H_i (design: H_0 is all). Block
    i, counted from 0, knows H_{i-1} (the first two all), and its detector tells H_i from the rest, E_i. `depth` blocks
    are trained; the first of them that is sure answers, with the sum of the logits so far. kept[i] is whether it may:
    samples pass through a block whose classifier is not kept, see `fastlif.cost.bloctrain.place`.

    Args:
        shape, classes: of a sample, (C, H, W); number of classes.
        plans: of the blocks.
        neurons: makes one layer of neurons, [T, B, ...] -> spikes [T, B, ...], and takes its options as keywords.
        per_step: wraps modules that know no time, as `fastlif.PerStep` does.
        residuals: False leaves out all 1x1 convolutions beside the others (the paper's VGG9-like network).
        exits: see above.
        detectors: False for BlocTrain-base, which has all classes in every block (section 6.3).
        thresholds: when samples leave; an attribute, to be set to others at any time.

    Shape: x [T, B, C, H, W] -> [1, B, classes], the answer after T steps: with exits 1 for the class and 0 for others,
    end to end the last membranes.

    Raises:
        ValueError: sizes below 1; no blocks; blocks that cannot be built.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        plans: Sequence[Plan],
        neurons: Callable[..., nn.Module] = neurons,
        per_step: Callable[..., nn.Module] = PerStep,
        *,
        alpha: float | None = None,
        residuals: bool = True,
        exits: bool = True,
        detectors: bool = True,
        thresholds: Thresholds = Thresholds(),
    ):
        super().__init__()
        check(shape, classes)
        if not plans:
            raise ValueError("there must be at least one block")
        if alpha is not None:
            raise ValueError(f"alpha is a scale of batch norm, which this network has none of: got {alpha}")
        self.sample, self.classes, self.exits, self.thresholds = tuple(shape), classes, exits, thresholds
        shapes, blocks, decay = [self.sample], [], neurons().neuron.decay
        for number, plan in enumerate(plans):
            plan = plan if residuals else replace(plan, skip=None, earlier=())
            block = Bloc(plan, shapes, classes, neurons, per_step, decay, exits and detectors and number > 0)
            if not exits and number < len(plans) - 1:
                block.head = block.classifier = None
            shapes.append(block.shape)
            blocks.append(block)
        self.blocks, self.shapes = nn.ModuleList(blocks), shapes
        self.register_buffer("hard", torch.ones(len(plans) + 1, classes, dtype=torch.bool))
        self.depth, self.kept = 0 if exits else len(plans), [True] * len(plans)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def get_extra_state(self) -> dict:
        """What the state dict has besides parameters and `hard`."""
        return {"depth": self.depth, "kept": list(self.kept)}

    def set_extra_state(self, state: dict) -> None:
        """Put it back."""
        self.depth, self.kept = state["depth"], list(state["kept"])

    def known(self, number: int) -> torch.Tensor:
        """The classes of block `number`, bool [classes]."""
        return self.hard[max(0, number - 1)]

    def feed(self, number: int, x: torch.Tensor) -> list[torch.Tensor]:
        """What block `number` is given, from the network's input x: spikes of earlier blocks, without gradient."""
        outputs = [x]
        with torch.no_grad():
            for block in self.blocks[:number]:
                outputs.append(block.spikes(*block.given(outputs)))
        return self.blocks[number].given(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, B, C, H, W] -> [1, B, classes]."""
        if x.dim() != 5 or tuple(x.shape[2:]) != self.sample:
            raise ValueError(f"this BlocNet needs x [T, B, {', '.join(map(str, self.sample))}], got {list(x.shape)}")
        if not self.exits:
            outputs = [x]
            for block in self.blocks:
                outputs.append(block.spikes(*block.given(outputs)))
            return self.blocks[-1].answer(outputs[-1])[0][None]
        if torch.compiler.is_compiling():  # how many samples go on is known only when it runs: all of them do
            exits = Outputs(self, *self.all_outputs(x), x.new_zeros(x.shape[1], dtype=torch.long)).exits(
                self.thresholds
            )
        else:
            exits = self.infer(x)
        return nn.functional.one_hot(exits.answers, self.classes).to(x.dtype)[None]

    @torch.no_grad()
    def infer(self, x: torch.Tensor, thresholds: Thresholds | None = None, depth: int | None = None) -> Exits:
        """Algorithm 3 for a batch: samples that leave are dropped from it, the rest goes on.

        Args:
            x: [T, B, C, H, W].
            thresholds: those of the network if None.
            depth: how many blocks there are; those that are trained if None, at least one.
        """
        last = max(1, self.depth if depth is None else depth) - 1
        answers = torch.zeros(x.shape[1], dtype=torch.long, device=x.device)
        blocks, rest, sums, outputs = torch.zeros_like(answers), torch.arange(x.shape[1], device=x.device), 0.0, [x]
        for number, block in enumerate(self.blocks[: last + 1]):
            outputs.append(block.spikes(*block.given(outputs)))
            if number < last and not self.kept[number]:
                continue
            logits, hard = block.answer(outputs[-1])
            sums = sums + logits.float()
            leave, answer = self.decide(number, sums, hard, thresholds or self.thresholds)
            leave = leave | (number == last)
            answers[rest[leave]], blocks[rest[leave]] = answer[leave], number
            if leave.all():
                break
            stay = ~leave
            rest, sums = rest[stay], sums[stay]
            needed = {source + 1 for later in self.blocks[number + 1 : last + 1] for source in later.sources}
            outputs = [one[:, stay] if place in needed else one[:, :0] for place, one in enumerate(outputs)]
        return Exits(answers, blocks)

    def decide(
        self, number: int, sums: torch.Tensor, hard: torch.Tensor | None, thresholds: Thresholds
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(whether each sample leaves at block `number`, the answer if it does), [B] each.

        Args:
            sums: of the logits of all blocks so far, [B, classes].
            hard: the detector's output [B], before its sigmoid; None: it is hard.
        """
        own = self.known(number)
        shares = sums.masked_fill(~own, -torch.inf).softmax(-1)
        sure, answer = shares.max(-1)
        if hard is None:
            return sure >= thresholds.conf, answer
        hard = hard.float().sigmoid()
        easy = own & ~self.hard[number]
        refined = shares.masked_fill(~easy, -1.0).argmax(-1)
        answer = torch.where(self.hard[number][answer] & easy.any() & (hard < thresholds.low), refined, answer)
        return (sure >= thresholds.conf) | (hard < thresholds.high), answer

    @torch.no_grad()
    def all_outputs(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What all trained blocks say of all samples: sums of logits [blocks, B, classes], detectors' [blocks, B]."""
        depth, total = max(1, self.depth), 0.0
        sums, detected, spikes = [], [], [x]
        for number, block in enumerate(self.blocks[:depth]):
            spikes.append(block.spikes(*block.given(spikes)))
            logits, hard = block.answer(spikes[-1])
            if self.kept[number] or number == depth - 1:
                total = total + logits.float()
            sums.append(total if isinstance(total, torch.Tensor) else torch.zeros_like(logits, dtype=torch.float32))
            detected.append(torch.full_like(sums[-1][:, 0], torch.inf) if hard is None else hard.float())
        return torch.stack(sums), torch.stack(detected)

    def outputs(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> "Outputs":
        """`all_outputs` of batches (x [T, B, ...], labels [B]): from one pass, the answers for any thresholds."""
        found = [(*self.all_outputs(x), labels) for x, labels in batches]
        sums, hard, labels = zip(*found, strict=True)
        return Outputs(self, torch.cat(sums, 1), torch.cat(hard, 1), torch.cat(labels))


@dataclass(frozen=True)
class Outputs:
    """Of a `net`: `all_outputs` (inf where there is no detector), and labels [N]."""

    net: BlocNet
    sums: torch.Tensor
    hard: torch.Tensor
    labels: torch.Tensor

    def exits(self, thresholds: Thresholds) -> Exits:
        """As `BlocNet.infer` would answer."""
        answers = torch.zeros_like(self.labels)
        blocks, rest = answers.clone(), torch.ones_like(answers, dtype=torch.bool)
        last = len(self.sums) - 1
        for number, (sums, hard) in enumerate(zip(self.sums, self.hard, strict=True)):
            if number < last and not self.net.kept[number]:
                continue
            leave, answer = self.net.decide(number, sums, hard, thresholds)
            leave = rest & (leave | (number == last))
            answers, blocks = torch.where(leave, answer, answers), blocks.masked_fill(leave, number)
            rest = rest & ~leave
        return Exits(answers, blocks)
