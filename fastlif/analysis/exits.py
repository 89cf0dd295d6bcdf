"""What the exits of a network of blocks do: accuracy, operations, memory and shares leaving, by confidence."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..cost.bloctrain import bloc_costs, inference
from ..models import BlocNet, Thresholds
from ..nn import evaluating

CONFIDENCES = (0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999, 1.0)


@dataclass(frozen=True)
class AtExits:
    """At one set of thresholds, over a part of a data set.

    accuracy: the share of right answers. leaving: of each block, the share of samples that it answers. by_block: of
    each, the share of right answers among these (None: there are none). operations, memory: of a mean inference, in
    synaptic operations and bits. fewer_operations, memory_overhead: over those end to end (the first the other way).
    """

    thresholds: Thresholds
    accuracy: float
    leaving: list[float]
    by_block: list[float | None]
    operations: float
    memory: float
    fewer_operations: float
    memory_overhead: float


def at_confidences(
    net: BlocNet,
    batches: Collection[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    confidences: Sequence[float] = CONFIDENCES,
) -> list[AtExits]:
    """The exits at several conf, with the network's high and low: figures 6, 7, 9 and 10, from one pass over batches.

    Args:
        net: with exits, trained.
        batches: (x [T, B, ...], labels [B]).
        steps: T.
        confidences: each in [0, 1].
    """
    with evaluating(net):
        outputs = net.outputs(batches)
    costs, found = bloc_costs(net), []
    for conf in confidences:
        thresholds = replace(net.thresholds, conf=conf)
        exits = outputs.exits(thresholds)
        right = exits.answers == outputs.labels
        left = [exits.blocks == number for number in range(max(1, net.depth))]
        counted = inference(net, exits, steps, costs)
        found.append(
            AtExits(
                thresholds,
                right.float().mean().item(),
                [own.float().mean().item() for own in left],
                [right[own].float().mean().item() if own.any() else None for own in left],
                **vars(counted),
            )
        )
    return found


def classes_of(net: BlocNet) -> list[dict[str, Any]]:
    """Of every trained block: the classes it knows, and of these the hard ones that its detector finds."""
    found = []
    for number in range(max(1, net.depth)):
        known = net.known(number)
        hard = net.hard[number] & known if number else torch.zeros_like(known)
        found.append({"knows": known.nonzero().flatten().tolist(), "hard": hard.nonzero().flatten().tolist()})
    return found
