"""BlocTrain: gradients of a block against plain PyTorch, hard and easy classes, and the samples of some classes."""

import functools

import numpy as np
import pytest
import torch
from test_bloc import make, make_x
from torch.utils.data import Subset

import fastlif
from fastlif import data, models
from fastlif.train import fit
from fastlif.train.bloctrain import BlocTrain, class_accuracies, split_classes

SETS = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 1], [0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
sgd = functools.partial(torch.optim.SGD, lr=1.0)


def known_batch(number, size=6):
    """x, and labels of the classes that block `number` of a network with these sets knows."""
    own = SETS[max(0, number - 1)].nonzero().flatten()
    return make_x(size=size), own[torch.arange(size) % len(own)]


def with_sets(**options):
    net = make(**options)
    net.hard.copy_(SETS)
    return net


def by_hand(net, number, x, y):
    """The loss of a block on spikes of those before it, sample after sample, and its gradients by name."""
    outputs = [x]
    for block in net.blocks[:number]:
        outputs.append(block.spikes(*(outputs[source + 1] for source in block.sources)).detach())
    block = net.blocks[number]
    logits, hard = block(*(outputs[source + 1] for source in block.sources))
    own, loss = [c for c in range(5) if net.hard[max(0, number - 1), c]], 0.0
    for n, label in enumerate(y.tolist()):
        loss = loss - (logits[n, label] - logits[n, own].exp().sum().log()) / len(y)
        if hard is not None:
            p = 1 / (1 + torch.exp(-hard[n]))
            loss = loss - (p.log() if net.hard[number, label] else (1 - p).log()) / len(y)
    names = [f"blocks.{number}.{name}" for name, _ in block.named_parameters()]
    return loss.detach(), dict(zip(names, torch.autograd.grad(loss, list(block.parameters())), strict=True))


@pytest.mark.parametrize("detectors", [True, False])
@pytest.mark.parametrize("number", range(4))
def test_a_step_is_that_of_the_block_alone(number, detectors):
    net = with_sets(detectors=detectors)
    x, y = known_batch(number)
    loss, expected = by_hand(net, number, x, y)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    outcome = BlocTrain(net, number, sgd).step(x, y)
    torch.testing.assert_close(outcome.loss, loss, rtol=1e-12, atol=0)
    for name, p in net.named_parameters():
        if not name.startswith(f"blocks.{number}."):
            assert torch.equal(p, before[name]) and p.grad is None, name
            continue
        found = before[name] - p.detach()
        assert expected[name].any() and (found - expected[name]).norm() <= 1e-10 * expected[name].norm(), name
    others = ~SETS[max(0, number - 1)]
    assert (outcome.scores[:, others] == -torch.inf).all() and outcome.scores[:, ~others].isfinite().all()


def test_labels_that_a_block_does_not_know():
    method = BlocTrain(with_sets(), 3, sgd)
    with pytest.raises(ValueError, match=r"block 3 knows classes \[1, 2\], got others"):
        method.step(make_x(), torch.tensor([1, 2, 4]))


@pytest.mark.parametrize(
    ("net", "number", "options", "message"),
    [
        (torch.nn.Linear(3, 3), 0, {}, r"a network of blocks with exits \(bloc-...\), not Linear"),
        (make(exits=False), 0, {}, r"a network of blocks with exits \(bloc-...\), not BlocNet"),
        (make(), 4, {}, r"block must be in \[0, 4\), got 4"),
        (make(), -1, {}, r"block must be in \[0, 4\), got -1"),
        (make(), 0, {"precision": torch.float16}, "precision must be bfloat16 or none"),
    ],
)
def test_bad_arguments(net, number, options, message):
    with pytest.raises(ValueError, match=message):
        BlocTrain(net, number, sgd, **options)


def test_predictions_are_those_of_all_blocks_up_to_this_one():
    net, x = with_sets(thresholds=models.Thresholds(0.9, 0.4, 0.2)), make_x(size=20)
    for number, depth in ((0, 0), (2, 2), (1, 4)):
        net.depth = depth
        found = BlocTrain(net, number, sgd).predict(x)
        answers = net.infer(x, depth=max(depth, number + 1)).answers
        assert torch.equal(found.argmax(-1), answers) and torch.equal(found.sum(-1), torch.ones(20))


def test_a_block_learns_in_bfloat16_and_keeps_less_than_the_network():
    net, (x, y) = with_sets().float(), known_batch(0, 20)
    x = x.float()
    method = BlocTrain(net, 0, functools.partial(torch.optim.Adam, lr=1e-2), precision=torch.bfloat16)
    losses = [epoch.loss for epoch in fit(method, [(x, y)] * 5, 6, [(x, y)])]
    assert losses[-1] < 0.8 * losses[0] and method.step(x, y).loss.dtype == torch.float32
    *_, kept = method.kept(x)
    assert 0 < kept.total < fastlif.saved_bytes(make(exits=False).float(), x).total


def test_a_method_continues_from_its_state():
    x, y = known_batch(1)
    decay = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    through, first, second = (BlocTrain(with_sets(), 1, adam, decay) for _ in range(3))
    for _ in range(4):
        through.step(x, y)
    for _ in range(2):
        first.step(x, y)
    second.net.load_state_dict(first.net.state_dict())
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.step(x, y)
    for a, b in zip(through.net.parameters(), second.net.parameters(), strict=True):
        assert torch.equal(a, b)
    assert through.optimizer.param_groups[0]["lr"] == 1e-2 / 4


ACCURACIES = torch.tensor([0.9, 0.5, 0.7, 0.8, 0.6])  # their mean 0.7, standard deviation sqrt(0.02)


@pytest.mark.parametrize(
    ("options", "threshold", "hard"),
    [
        ({"hardness": 0.7}, 0.7, [1, 4]),  # below it, not at it
        ({"hardness": 0.7, "deviations": 5.0}, 0.7, [1, 4]),
        ({"deviations": 0.0}, 0.7, [1, 4]),
        ({}, 0.7 - 0.02**0.5, [1]),
        ({"deviations": 0.5}, 0.7 + 0.5 * 0.02**0.5, [1, 2, 4]),
        ({"deviations": 1.0}, 0.7 + 0.02**0.5, [1, 2, 3, 4]),
        ({"hardness": 0.0}, 0.0, []),
        ({"deviations": -2.0}, 0.7 - 2 * 0.02**0.5, []),
        ({"hardness": 1.0}, 1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_hard_classes(options, threshold, hard):
    net = make()
    net.hard[1:] = False
    assert split_classes(net, 0, ACCURACIES, **options) == pytest.approx(threshold, abs=1e-6)
    assert net.hard[1].nonzero().flatten().tolist() == hard
    assert net.hard[0].all() and not net.hard[2:].any()


def test_only_hard_classes_are_divided_further():
    """Mean and deviation are those of the classes to be divided; of others nothing need be known."""
    net = make()
    net.hard[1] = torch.tensor([1, 1, 0, 1, 0])
    accuracies = torch.tensor([0.9, 0.5, torch.nan, 0.7, 0.1])
    assert split_classes(net, 1, accuracies, deviations=0.0) == pytest.approx(0.7)
    assert net.hard[2].tolist() == [False, True, False, False, False]
    assert split_classes(net, 1, torch.full((5,), 1 / 3), deviations=0.5) == pytest.approx(1 / 3)
    assert not net.hard[2].any()  # all alike: none is below the mean


def test_a_class_without_validation_samples_is_named():
    net = make()
    accuracies = torch.tensor([0.9, torch.nan, 0.8, torch.nan, 0.7])
    with pytest.raises(ValueError, match=r"no samples of classes \[1, 3\]"):
        split_classes(net, 0, accuracies)
    net.hard[1] = torch.tensor([1, 0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"no samples of classes \[3\]"):
        split_classes(net, 1, accuracies, 0.5)


def test_accuracies_of_classes():
    net, x = with_sets(), make_x(size=12)
    answers = net.infer(x, depth=2).answers
    y = answers.clone()
    y[:6] = (y[:6] + 1) % 4
    found = class_accuracies(net, [(x[:, :5], y[:5]), (x[:, 5:], y[5:])], 2)
    for label in range(5):
        own = [answer == label for answer, other in zip(answers.tolist(), y.tolist(), strict=True) if other == label]
        assert found[label].item() == pytest.approx(sum(own) / len(own) if own else float("nan"), nan_ok=True)


class Listed(list):
    """(raw, label) pairs that have their labels apart and count how often one is read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("apart", [True, False])
def test_samples_of_classes_of_a_part(apart):
    source = Listed((torch.tensor([float(n)]), n % 3) for n in range(10))
    if apart:
        source.labels = [label for _, label in source]
    part = data.Part(source, [9, 1, 4, 5, 8, 2], lambda raw, steps, seed: raw)
    assert data.labels_of(part).tolist() == [0, 1, 1, 2, 2, 2]
    whole = data.Data("ten", 3, (1,), part, part, part)
    own = data.of_classes(whole, np.array([True, False, True]))
    assert bool(source.reads) != apart
    assert isinstance(own.train, data.Part)
    assert [(int(x), y) for x, y in (own.train[n] for n in range(len(own.train)))] == [(9, 0), (5, 2), (8, 2), (2, 2)]
    assert len(own.validation) == len(own.test) == 6


def test_samples_of_classes_of_tensors():
    digits = data.load("digits")
    own = data.of_classes(digits, np.arange(10) < 2)
    labels = data.labels_of(digits.train)
    assert data.labels_of(own.train).tolist() == [label for label in labels.tolist() if label < 2]
    assert isinstance(own.train, Subset) and own.validation is digits.validation
    assert not len(data.of_classes(digits, np.zeros(10, bool)).train)
