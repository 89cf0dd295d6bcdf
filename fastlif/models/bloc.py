"""Bloc: layers with a classifier of their own, of which BlocTrain's networks are made (Srinivasan & Roy 2021)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..neuron import Neuron
from ..nn import LI, PerStep
from ..surrogate import PassThrough, Triangle
from .resnet import conv

Layer = int | str | tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What a block is made of.

    Args:
        layers: the channels of each convolution, (channels, kernel) or (channels, kernel, stride) for others than 3 and
            1, and "pool" where averages of 2x2 pixels are taken.
        skip: None, or behind how many of these layers (0: the block's input) a 1x1 convolution begins whose currents
            are added to those of the last one. From a block's input it is a residual connection between blocks.
        earlier: numbers of blocks before the last one, whose spikes are added, through 1x1 convolutions, to the
            currents of the block's first convolution.
        hidden: neurons of each hidden layer of the classifier; none for a linear one.
        threshold: of the block's convolutions; that of the network if None.
    """

    layers: Sequence[Layer]
    skip: int | None = None
    earlier: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    threshold: float | None = None


class Joined(nn.Module):
    """A convolution and its neurons, which also get the currents of 1x1 convolutions of other spikes.

    Shape: h [T, B, C, H, W] and others of the same T and B -> spikes [T, B, ...].
    """

    def __init__(self, main: nn.Module, sides: Sequence[nn.Module], neurons: nn.Module):
        super().__init__()
        self.main, self.sides, self.neurons = main, nn.ModuleList(sides), neurons

    def forward(self, h: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """Spikes, from the block's and the other ones."""
        current = self.main(h)
        for side, other in zip(self.sides, others, strict=True):
            current = current + side(other)
        return self.neurons(current)


class Bloc(nn.Module):
    """A block, its classifier, and its hard-class detector (figure 1, algorithm 2).

    Neurons follow each convolution, integrate-and-fire ones each pooling, whose gradient is passed through. The
    classifier's and the detector's last neurons leak and do not fire: their membranes after T steps are the answer.

    Args:
        plan: its layers.
        shapes: (C, H, W) of the spikes of all blocks before, the network's input first.
        classes: number of classes.
        neurons: makes one layer of neurons, [T, B, ...] -> spikes [T, B, ...]; takes its options as keywords.
        per_step: wraps modules that know no time, as `fastlif.PerStep` does.
        decay: of the membranes that do not fire.
        detects: whether there is a detector.

    Shape: spikes of the blocks in `sources`, [T, B, C, H, W] -> logits [B, classes], and [B] of the detector or None.

    Raises:
        ValueError: images that cannot be made smaller so often; an earlier block that is none; an unknown layer.
    """

    def __init__(
        self,
        plan: Plan,
        shapes: Sequence[tuple[int, int, int]],
        classes: int,
        neurons: Callable[..., nn.Module],
        per_step: Callable[..., nn.Module] = PerStep,
        decay: float = 0.99,
        detects: bool = True,
    ):
        super().__init__()
        if any(not 0 <= number < len(shapes) - 2 for number in plan.earlier):
            raise ValueError(f"earlier must name blocks before the last one, got {plan.earlier}")
        self.plan, self.sources = plan, (*plan.earlier, len(shapes) - 2)
        options = {} if plan.threshold is None else with_threshold(neurons().neuron, plan.threshold)
        seen, stages, self.origins = [shapes[-1]], [], []
        weighted = [number for number, layer in enumerate(plan.layers) if layer != "pool"]
        for number, layer in enumerate(plan.layers):
            channels, height, width = seen[-1]
            origins = {}  # of the currents beside a convolution's own: shapes, by the place in `spikes`
            if number == weighted[0]:
                origins |= {-1 - place: shapes[source + 1] for place, source in enumerate(plan.earlier)}
            if plan.skip is not None and number == weighted[-1]:
                origins[plan.skip] = seen[plan.skip]
            if layer == "pool":
                seen.append((channels, height // 2, width // 2))
                integrate = neurons(decay=1.0, surrogate=PassThrough(1 / neurons().neuron.threshold))
                stages.append(nn.Sequential(per_step(nn.AvgPool2d(2)), integrate))
            else:
                made, kernel, stride = complete(layer)
                seen.append((made, -(-height // stride), -(-width // stride)))
                sides = [per_step(project(begin, seen[-1])) for begin in origins.values()]
                stages.append(Joined(per_step(conv(channels, made, kernel, stride)), sides, neurons(**options)))
            if min(seen[-1]) < 1:
                raise ValueError(f"images of {shapes[0][1]}x{shapes[0][2]} are too small for these blocks")
            self.origins.append(tuple(origins))
        self.stages, self.shape = nn.ModuleList(stages), seen[-1]
        features, head = self.shape[0] * self.shape[1] * self.shape[2], [per_step(nn.Flatten())]
        for size in plan.hidden:
            head += [per_step(nn.Linear(features, size, bias=False)), neurons()]
            features = size
        self.head = nn.Sequential(*head)
        self.classifier = nn.Sequential(per_step(nn.Linear(features, classes, bias=False)), LI(decay))
        detector = [per_step(nn.Linear(features, 1, bias=False)), LI(decay)]
        self.detector = nn.Sequential(*detector) if detects else None

    def given(self, outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the block is given, of the network's input and the spikes of all blocks so far."""
        return [outputs[source + 1] for source in self.sources]

    def spikes(self, *sources: torch.Tensor) -> torch.Tensor:
        """The block's spikes [T, B, C, H, W], from those of the blocks in `self.sources`."""
        *earlier, h = sources
        outputs = [h]
        for stage, origins in zip(self.stages, self.origins, strict=True):
            others = [outputs[place] if place >= 0 else earlier[-1 - place] for place in origins]
            outputs.append(stage(outputs[-1], *others))
        return outputs[-1]

    def answer(self, spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(logits [B, classes], the detector's [B] or None) of the block's spikes: membranes after the last step."""
        h = self.head(spikes)
        return self.classifier(h)[-1], None if self.detector is None else self.detector(h)[-1, :, 0]

    def forward(self, *sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(logits [B, classes], the detector's [B] or None)."""
        return self.answer(self.spikes(*sources))


def complete(layer: Layer) -> tuple[int, int, int]:
    """A convolution as (channels, kernel, stride)."""
    given = layer if isinstance(layer, (tuple, list)) else (layer,)
    made, kernel, stride = sizes = (*given, *(3, 1)[len(given) - 1 :])
    if any(isinstance(size, str) or size < 1 for size in sizes) or kernel % 2 == 0:
        raise ValueError(f"unknown layer {layer!r}: channels and stride must be at least 1, kernels odd")
    return made, kernel, stride


def project(begin: tuple[int, int, int], end: tuple[int, int, int]) -> nn.Conv2d:
    """The 1x1 convolution from images of shape `begin` to those of `end`, its strides what makes them as small."""
    strides = tuple(-(-large // small) for large, small in zip(begin[1:], end[1:], strict=True))
    if any(-(-large // by) != small for large, by, small in zip(begin[1:], strides, end[1:], strict=True)):
        raise ValueError(f"no stride of a 1x1 convolution makes {begin[1]}x{begin[2]} images {end[1]}x{end[2]}")
    return conv(begin[0], end[0], 1, strides)


def with_threshold(neuron: Neuron, threshold: float) -> dict[str, Any]:
    """Options of such neurons with another threshold v, a triangle being one of u / v - 1 for both (algorithm 2)."""
    if not isinstance(neuron.surrogate, Triangle):
        return {"threshold": threshold}
    (width, height), factor = neuron.surrogate.numbers, threshold / neuron.threshold
    return {"threshold": threshold, "surrogate": Triangle(width * factor, height / factor)}
