"""What networks of blocks cost: the paper's memory, operations and memory of an inference, exits that are placed."""

import pytest
import torch

from fastlif import models
from fastlif.analysis import at_confidences, classes_of
from fastlif.cost import operations
from fastlif.cost.bloctrain import bloc_costs, end_to_end, inference, parameter_overhead, place, training_memory
from fastlif.models.bloc_net import Exits


def small(**options):
    torch.manual_seed(0)
    net = models.build("bloc-small", width=0.5, **options)
    net.depth = 3
    return net


def batches(count=2):
    generator = torch.Generator().manual_seed(1)
    return [(4 * torch.rand(3, 16, 1, 8, 8, generator=generator), torch.arange(16) % 10) for _ in range(count)]


def test_the_papers_ratios_of_memory():
    blocks, whole = training_memory(models.build("bloc-resnet9"), 100, 1)
    assert [whole / block for block in blocks] == pytest.approx(
        [1.32, 2.95, 2.8], rel=0.03
    )  # section 5.2: the first two
    assert blocks[2] > blocks[1]


def test_weights_and_neurons_are_those_of_the_network():
    net, whole = small(), small(exits=False)
    costs = bloc_costs(net)
    assert end_to_end(costs).weights == sum(p.numel() for p in whole.parameters())
    assert sum(cost.layers.weights + cost.answers.weights for cost in costs) == sum(p.numel() for p in net.parameters())
    assert parameter_overhead(net) == pytest.approx(
        sum(p.numel() for p in net.parameters()) / sum(p.numel() for p in whole.parameters())
    )
    assert [cost.layers.neurons for cost in costs] == [8 * 64 + 16 * 16, 16 * 16 + 32 * 4, 32 * 4 + 32]
    net.hard[1, 3:] = False
    assert bloc_costs(net)[2].answers.weights == 32 * 3 + 32 + 32 * 32


def test_operations_are_those_of_the_layers_that_run():
    """Counted with every input a spike, and all samples in all blocks."""
    net = small()
    ones = torch.ones(3, 4, 1, 8, 8)
    last = inference(net, Exits(torch.zeros(4), torch.full((4,), 2)), 3)
    net.thresholds = models.Thresholds(conf=1.0, high=0.0, low=0.0)
    counted = operations(net, ones, multiplying=[name for name, m in net.named_modules() if hasattr(m, "weight")])
    assert last.operations == counted.multiplications
    first = inference(net, Exits(torch.zeros(4), torch.zeros(4, dtype=torch.long)), 3)
    costs = bloc_costs(net)
    assert first.operations == 3 * (costs[0].layers.synapses + costs[0].answers.synapses)
    assert first.memory == 32 * (costs[0].layers.weights + costs[0].answers.weights)
    assert first.fewer_operations > last.fewer_operations and first.memory_overhead < last.memory_overhead


def test_exits_by_confidence():
    net = small()
    found = at_confidences(net, batches(), 3, (0.0, 0.2, 1.0))
    assert found[0].leaving == [1.0, 0.0, 0.0] and found[0].by_block[1:] == [None, None]
    assert [one.operations for one in found] == sorted(one.operations for one in found)
    for one in found:
        answers = [net.infer(x, one.thresholds).answers == y for x, y in batches()]
        assert one.accuracy == pytest.approx(torch.cat(answers).float().mean().item())
    assert classes_of(net)[0] == {"knows": list(range(10)), "hard": []}


def test_an_exit_that_nobody_takes_is_left_out():
    net = small()
    net.thresholds = models.Thresholds(conf=1.0, high=0.0, low=0.0)
    assert place(net, batches(), 3) == [False, False, True]
    net.thresholds = models.Thresholds(conf=0.0)
    assert place(net, batches(), 3)[0]
