"""What networks of blocks cost: memory of training each, operations and memory of an inference (BlocTrain)."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from ..models import BlocNet
from ..models.bloc_net import Exits
from ..models.blocks import LAYERS
from ..nn import LI, Stateful, evaluating
from .connections import all_connections


@dataclass(frozen=True)
class Part:
    """Of some layers: weights; neurons that spike, of a sample; synapses, operations of a step of a sample."""

    weights: int = 0
    neurons: int = 0
    synapses: int = 0

    def __add__(self, other: "Part") -> "Part":
        return Part(self.weights + other.weights, self.neurons + other.neurons, self.synapses + other.synapses)


@dataclass(frozen=True)
class BlocCost:
    """A block: its layers; its classifier with the outputs of the classes it knows, and its detector; the same for all
    classes and without detector; and how many neurons hand their spikes to the next block."""

    layers: Part
    answers: Part
    whole_classifier: Part
    handed_on: int


@dataclass(frozen=True)
class Inference:
    """Mean of a sample: synaptic operations and bits of memory, and both over those of the network end to end."""

    operations: float
    memory: float
    fewer_operations: float
    memory_overhead: float


def bloc_costs(net: BlocNet) -> list[BlocCost]:
    """Every block of a network with exits, counted on a sample of zeros."""
    found, outputs = [], [torch.zeros(1, 1, *net.sample, device=next(net.parameters()).device)]
    with evaluating(net):
        for number, block in enumerate(net.blocks):
            layers, spikes = counted(block.stages, lambda block=block: block.spikes(*block.given(outputs)))
            outputs.append(spikes)
            head, h = counted(block.head, lambda block=block: block.head(outputs[-1]))
            last, _ = counted(block.classifier, lambda block=block, h=h: block.classifier(h))
            share = int(net.known(number).sum()), net.classes
            own = Part(last.weights * share[0] // share[1], 0, last.synapses * share[0] // share[1])
            if block.detector is not None:
                own = own + counted(block.detector, lambda block=block, h=h: block.detector(h))[0]
            found.append(BlocCost(layers, head + own, head + last, spikes[0, 0].numel()))
    return found


def counted(module: nn.Module, run) -> tuple[Part, torch.Tensor]:
    """The part that `module` is, and what run() gives, in which it runs."""
    neurons, synapses, handles = [], [], []
    for layer in module.modules():
        if isinstance(layer, LAYERS):
            hook = lambda layer, inputs, output: synapses.append(all_connections(layer, inputs[0]))  # noqa: E731
            handles.append(layer.register_forward_hook(hook))
        elif isinstance(layer, Stateful) and not isinstance(layer, LI):
            handles.append(layer.register_forward_hook(lambda layer, inputs, output: neurons.append(output.numel())))
    try:
        output = run()
    finally:
        for handle in handles:
            handle.remove()
    return Part(sum(p.numel() for p in module.parameters()), sum(neurons), sum(synapses)), output


def end_to_end(costs: Collection[BlocCost]) -> Part:
    """All layers, and the last block's classifier for all classes."""
    *_, last = costs
    return sum((cost.layers for cost in costs), Part()) + last.whole_classifier


def training_memory(net: BlocNet, steps: int, batch: int) -> tuple[list[float], float]:
    """Bytes by the paper's count (section 5.2): of training each block, and the network end to end.

    Weights and membranes have 32 bits and spikes one: block i has the weights of all blocks up to it, of its own
    classifier and detector, and spike and membrane of every neuron of its own at every step,

        32 * (sum_{j<=i} |W_j| + |W_answers,i|) + B*T * 33 * N_i,    end to end 32 * |W| + B*T * 33 * N

    The paper's own figures for its ResNet-9, 1.32 to 2.95 times less than end to end and block 3 a little more than
    block 2, come out with B = 1 (1.33, 3.02, 2.83 for `BlocResNet9`); with B = 64 the weights hardly count.

    Args:
        net: with exits.
        steps, batch: T and B.
    """
    costs, weights, blocks = bloc_costs(net), 0, []
    for cost in costs:
        weights += cost.layers.weights
        neurons = cost.layers.neurons + cost.answers.neurons
        blocks.append((32 * (weights + cost.answers.weights) + batch * steps * 33 * neurons) / 8)
    whole = end_to_end(costs)
    return blocks, (32 * whole.weights + batch * steps * 33 * whole.neurons) / 8


def inference(net: BlocNet, exits: Exits, steps: int, costs: list[BlocCost] | None = None) -> Inference:
    """Operations and memory of an inference, mean over samples that leave as `exits` says (section 5.2, figure 6).

    Operations are synapses times steps, of convolutions and linear layers alike, whether or not there is a spike.
    Memory has the weights of all that runs, 32 bits each, and the spikes that a block hands on, a bit each and step.

    Args:
        costs: `bloc_costs(net)`, where it is there already.
    """
    costs = bloc_costs(net) if costs is None else costs
    operations = memory = 0.0
    for number, cost in enumerate(costs[: max(1, net.depth)]):
        reach, go_on = ((exits.blocks >= least).float().mean().item() for least in (number, number + 1))
        answers = cost.answers if net.kept[number] or number == net.depth - 1 else Part()
        operations += reach * steps * (cost.layers.synapses + answers.synapses)
        memory += reach * 32 * (cost.layers.weights + answers.weights) + go_on * steps * cost.handed_on
    whole = end_to_end(costs)
    return Inference(operations, memory, steps * whole.synapses / operations, memory / (32 * whole.weights))


def parameter_overhead(net: BlocNet) -> float:
    """Weights of the network with its exits over those end to end."""
    costs = bloc_costs(net)[: max(1, net.depth)]
    own = sum(cost.layers.weights + cost.answers.weights * net.kept[number] for number, cost in enumerate(costs[:-1]))
    last = costs[-1].layers.weights + costs[-1].answers.weights
    return (own + last) / end_to_end(bloc_costs(net)).weights


def place(net: BlocNet, batches: Collection[tuple[torch.Tensor, torch.Tensor]], steps: int) -> list[bool]:
    """Leave out exits that cost more operations than they save; sets net.kept, and returns it (section 6.2).

    From the first block to the last but one: is a mean inference on these samples, those that then go on included,
    cheaper without its classifier?
    """
    costs = bloc_costs(net)

    def operations():
        return inference(net, net.outputs(batches).exits(net.thresholds), steps, costs).operations

    net.kept = [True] * len(net.blocks)
    with evaluating(net):
        best = operations()
        for number in range(net.depth - 1):
            net.kept[number] = False
            without = operations()
            net.kept[number] = without >= best
            best = min(best, without)
    return net.kept
