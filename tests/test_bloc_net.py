"""Networks of blocks with exits: early exit against algorithm 3 for one sample at a time, and class sets."""

import copy
import pickle
import random
from collections import Counter

import pytest
import torch
from test_bloc import make, make_x
from torch.nn import functional

from fastlif.models import Thresholds


def random_net(seed):
    """(network, x): random nested class sets, depth, kept exits, sizes of the logits; detectors in most."""
    draw = random.Random(seed)
    net, x = make(seed, detectors=draw.random() < 0.8), make_x(3, 8) * torch.rand(1, 8, 1, 1, 1)
    sets = [set(range(5))]
    for number in range(1, 5):  # nothing easy, some hard, and, where no other block follows, nothing hard
        few = draw.choice([len(sets[-1]), draw.randint(min(1, len(sets[-1])), len(sets[-1])), int(number < 3)])
        sets.append(set(draw.sample(sorted(sets[-1]), min(few, len(sets[-1])))))
    if net.blocks[1].detector is not None:
        net.hard.copy_(torch.tensor([[one in own for one in range(5)] for own in sets]))
    net.depth = draw.randint(0, 4)
    net.kept = [draw.random() < 0.8 for _ in range(4)]
    with torch.no_grad():
        for number, block in enumerate(net.blocks):
            for output, wanted in zip((block.classifier, block.detector), block(*net.feed(number, x)), strict=True):
                if output is not None:
                    output[0].module.weight.mul_(draw.choice([0.5, 2, 5]) / wanted.std())
    return net, x


@torch.no_grad()
def said(net, sample):
    """What each block says of one sample, [T, 1, C, H, W]: (logits, the detector's)."""
    outputs, found = [sample], []
    for block in net.blocks:
        outputs.append(block.spikes(*(outputs[source + 1] for source in block.sources)))
        found.append(block.answer(outputs[-1]))
    return found


def read(net, samples, thresholds, depth, count):
    """Algorithm 3 as the paper has it, with H[i] and E[i] of its blocks 1 ... N; `samples` are what blocks say of each.

    Sums of the logits so far, of the classes of E_{i-1} and H_{i-1}; without a detector a sample is hard.
    """
    hard = [set(row.nonzero().flatten().tolist()) for row in net.hard]
    easy = [set(), *(hard[i - 1] - hard[i] for i in range(1, len(hard)))]
    answers, blocks = [], []
    for said in samples:
        logits = torch.zeros(5)
        for i in range(1, depth + 1):
            if i < depth and not net.kept[i - 1]:
                continue
            own, detected = said[i - 1]
            logits = logits + own[0].float()
            classes = sorted(easy[i - 1] | hard[i - 1] if i > 1 else hard[0])
            shares = dict(zip(classes, logits[classes].softmax(0).tolist(), strict=True))
            answer = max(shares, key=shares.get)
            is_hard = 1.0 if detected is None else detected.float().sigmoid().item()
            if i == depth or shares[answer] >= thresholds.conf or is_hard < thresholds.high:
                if answer in hard[i - 1] and is_hard < thresholds.low and easy[i - 1]:
                    refined = max(easy[i - 1], key=shares.get)
                    count["refined"] += refined != answer
                    answer = refined
                count[depth, i] += 1
                answers.append(answer)
                blocks.append(i - 1)
                break
    return torch.tensor(answers), torch.tensor(blocks)


THRESHOLDS = [
    Thresholds(),
    Thresholds(0.6, 0.5, 0.4),
    Thresholds(1.0, 0.3, 0.3),
    Thresholds(1.0, 0.0, 0.0),
    Thresholds(0.8, 1.0, 1.0),
    Thresholds(0.0, 0.5, 0.05),
]


def same(found, answers, blocks):
    return torch.equal(found.answers, answers) and torch.equal(found.blocks, blocks)


def test_early_exit_is_algorithm_3():
    """Batches that samples leave, the whole batch through all blocks, and one sample after the other."""
    count = Counter()
    for seed in range(24):
        net, x = random_net(seed)
        samples = [said(net, one) for one in x.split(1, 1)]
        seen = net.outputs([(x[:, :5], torch.zeros(5)), (x[:, 5:], torch.zeros(3))])
        for thresholds in THRESHOLDS:
            depth = max(1, net.depth)
            expected = read(net, samples, thresholds, depth, count)
            found = net.infer(x, thresholds)
            assert same(found, *expected), (seed, thresholds)
            assert same(seen.exits(thresholds), *expected), (seed, thresholds)
            other = 4 if depth < 4 else 2
            assert same(net.infer(x, thresholds, other), *read(net, samples, thresholds, other, count)), (
                seed,
                thresholds,
            )
        net.thresholds = THRESHOLDS[seed % 6]
        assert torch.equal(net(x), functional.one_hot(net.infer(x).answers, 5).double()[None])
    assert min(count[depth, block] for depth in range(1, 5) for block in range(1, depth + 1)) >= 5, count
    assert count["refined"] >= 5, count


def test_a_batch_of_one_and_of_none():
    net, x = random_net(9)
    whole = net.infer(x, THRESHOLDS[1], 4)
    assert len(whole.blocks.unique()) > 1
    for place in range(8):
        one = net.infer(x[:, place : place + 1], THRESHOLDS[1], 4)
        assert same(one, whole.answers[place : place + 1], whole.blocks[place : place + 1])
    assert net(x[:, :0]).shape == (1, 0, 5) and not len(net.infer(x[:, :0]).answers)


def test_samples_that_left_are_not_computed():
    net, x = random_net(9)
    sizes = []
    for block in net.blocks:
        block.stages[-1].main.register_forward_hook(lambda module, given, out: sizes.append(out.shape[1]))
    blocks = net.infer(x, THRESHOLDS[1], 4).blocks
    assert sizes == [int((blocks >= number).sum()) for number in range(len(sizes))] and sizes[-1] < 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.6}, "0 <= low <= high <= 1, got low=0.6, high=0.5"),
        ({"high": 1.5}, "0 <= low <= high <= 1"),
        ({"low": -0.1}, "0 <= low <= high <= 1"),
        ({"conf": 1.1}, r"conf must be in \[0, 1\], got 1.1"),
        ({"conf": float("nan")}, "conf must be"),
        ({"high": float("nan")}, "0 <= low <= high <= 1"),
    ],
)
def test_thresholds_out_of_order(options, message):
    with pytest.raises(ValueError, match=message):
        Thresholds(**options)


def test_which_classes_a_block_knows():
    """Block i, from 1, the classes of H_{i-2}; blocks 1 and 2 all of them."""
    net = make()
    net.hard[1:] = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert [net.known(number).sum().item() for number in range(4)] == [5, 5, 3, 2]
    assert [block.detector is not None for block in net.blocks] == [False, True, True, True]
    net.hard[1:] = True  # nothing was easy
    assert all(net.known(number).all() for number in range(4))


def test_copies_have_class_sets_depth_and_exits():
    net, x = random_net(5)
    net.depth, net.kept, net.thresholds = 3, [True, False, True, True], THRESHOLDS[1]
    again = make(seed=1, thresholds=THRESHOLDS[1])
    again.load_state_dict(net.state_dict())
    expected = net.infer(x)
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), again):
        assert (copied.depth, copied.kept) == (3, [True, False, True, True])
        assert torch.equal(copied.hard, net.hard) and same(copied.infer(x), expected.answers, expected.blocks)
    again.kept[0] = False
    assert net.kept[0]


@pytest.mark.parametrize("detectors", [True, False])
def test_export_and_compile_give_the_same_answers(detectors):
    net, x = random_net(9)
    if not detectors:
        for block in net.blocks:
            block.detector = None
    net.depth, net.kept, net.thresholds = 4, [True] * 4, THRESHOLDS[1]
    assert len(net.infer(x).blocks.unique()) > 2
    expected = net(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(x), expected)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)
    torch._dynamo.reset()


def test_bad_input():
    with pytest.raises(ValueError, match=r"this BlocNet needs x \[T, B, 1, 8, 8\]"):
        make()(make_x(shape=(1, 8, 9)))
    with pytest.raises(ValueError, match="alpha is a scale of batch norm"):
        make(alpha=1.0)
