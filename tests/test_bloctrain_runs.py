"""Runs of BlocTrain: block after block, ended early, cached, and what is left."""

import dataclasses
import itertools
import json

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

import fastlif
from fastlif import cli, data
from fastlif.models import BlocNet
from fastlif.train import Config, bloc_course, build, report, run, saved
from fastlif.train.bloctrain import class_accuracies, joined
from fastlif.train.method import autocast
from fastlif.train.spike_cache import SpikeCache

UNIT = dict(decay=0.9, reset_delay=True, fire_on_equal=False, surrogate="triangle:1:0.3")
SMALL = Config("bloctrain", "bloc-small", width=0.25, steps=3, epochs=2, batch_size=256, lr=1e-2, **UNIT)
SMALL = dataclasses.replace(SMALL, finetune_lr=5e-3, hardness_std=0.0)
change = dataclasses.replace


def weights_of(net):
    return [torch.cat([p.detach().flatten() for p in block.parameters()]) for block in net.blocks]


def accuracy(net, config=SMALL, part="test"):
    """The share of right answers of the network alone, as it comes from a file."""
    batches = build.batches(config, build.dataset(config), part, config.steps)
    right = [(net(x).mean(0).argmax(-1) == y) for x, y in batches]
    return torch.cat(right).double().mean().item()


@pytest.fixture
def dataset(monkeypatch):
    """digits, replaced by what is put in its place: the training part as it is, or another one."""

    def put(**changes):
        changed = dataclasses.replace(data.load("digits"), **changes)
        monkeypatch.setattr(build, "dataset", lambda config: changed)
        return changed

    return put


def test_all_blocks_learn_one_after_the_other(tmp_path, capsys):
    seen, rates, knew = [], [], []

    def look(method, epoch):
        seen.append(weights_of(method.net))
        rates.append(method.optimizer.param_groups[0]["initial_lr"])
        knew.append((method.block, method.net.depth, method.net.known(method.block).sum().item()))

    done = run.train(SMALL, out=tmp_path, on_epoch=look)
    assert [(epoch.number, epoch.steps) for epoch in done.epochs] == [(number, 3) for number in range(1, 7)]
    learned = [[not torch.equal(*two) for two in zip(*pair, strict=True)] for pair in itertools.pairwise(seen)]
    assert learned == [[number == block for number in range(3)] for block in (0, 1, 1, 2, 2)]
    assert rates == pytest.approx([1e-2 / 25] * 4 + [5e-3 / 25] * 2)  # OneCycleLR begins at a 25th
    net = fastlif.train.load(tmp_path).net
    few = net.hard.sum(1).tolist()
    assert knew == [(0, 0, 10)] * 2 + [(1, 1, 10)] * 2 + [(2, 2, few[1])] * 2 and net.depth == 3
    assert 10 > few[1] > few[2] > 0 and all((net.hard[n + 1] <= net.hard[n]).all() for n in range(3))
    assert done.test_accuracy == pytest.approx(accuracy(net))
    said = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("block ")]
    for number, (line, epoch) in enumerate(zip(said, done.epochs[1::2], strict=True), 1):
        hard = net.hard[number].nonzero().flatten().tolist()
        assert line.startswith(f"block {number}: validation {epoch.validation_accuracy:.1%}; below ")
        assert line.endswith(f", hard, are classes {hard}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": 0.0}, "is the target of 0.0% or more"),
        ({"target": 0.0, "base": True}, "is the target of 0.0% or more"),
        ({"hardness": 0.0}, "no hard classes are left"),
    ],
)
def test_no_more_blocks(tmp_path, capsys, options, said):
    config = change(SMALL, **options)
    done = run.train(config, out=tmp_path)
    assert len(done.epochs) == 2
    shown = capsys.readouterr().err
    assert "block 1 of 3 is the last one: " in shown and said in shown
    net = fastlif.train.load(tmp_path).net
    assert net.depth == 1
    assert accuracy(net, part="validation") == pytest.approx(done.epochs[-1].validation_accuracy)
    assert done.test_accuracy == pytest.approx(accuracy(net))  # of block 1 alone
    again = run.train(config, out=tmp_path, resume=True)
    assert again.epochs == done.epochs and again.test_accuracy == done.test_accuracy


@pytest.mark.parametrize(("accuracies", "blocks"), [((0.1, 0.6), 2), ((0.1, 0.2, 0.6), 3)])
def test_blocks_until_the_target(tmp_path, monkeypatch, capsys, accuracies, blocks):
    left = list(accuracies)
    monkeypatch.setattr(bloc_course, "evaluate", lambda method, batches: left.pop(0))
    done = run.train(change(SMALL, target=0.6, hardness=1.0, epochs=1), out=tmp_path)
    net = fastlif.train.load(tmp_path).net
    assert len(done.epochs) == net.depth == blocks and not left
    assert done.test_accuracy == pytest.approx(accuracy(net))
    said = "block 2 of 3 is the last one: validation 60.0% is the target of 60.0% or more"
    assert (said in capsys.readouterr().err) == (blocks == 2)


def test_a_target_that_is_not_reached_and_classes_that_are_all_hard(capsys):
    nets = []
    config = change(SMALL, hardness=1.0, target=1.0, epochs=1)
    done = run.train(config, on_epoch=lambda method, epoch: nets.append(method.net))
    assert len(done.epochs) == nets[0].depth == 3 and nets[0].hard.all()
    assert "is the last one" not in capsys.readouterr().err


def test_base_has_all_classes_and_no_detectors(tmp_path, capsys):
    done = run.train(change(SMALL, base=True, epochs=1), out=tmp_path)
    net = fastlif.train.load(tmp_path).net
    assert net.depth == len(done.epochs) == 3 and net.hard.all()
    assert all(block.detector is None for block in net.blocks)
    assert not any("detector" in name for name in net.state_dict())
    assert "hard" not in capsys.readouterr().err
    assert done.test_accuracy == pytest.approx(accuracy(net))


def test_the_file_has_it_all(tmp_path, capsys):
    """Class sets, depth, exits, thresholds; `fastlif eval` runs it."""
    config = change(SMALL, conf=0.3, high=0.6, low=0.55, hardness=0.9, epochs=1, residuals=False)
    done = run.train(config, out=tmp_path)
    trained = fastlif.train.load(tmp_path)
    assert trained.net.thresholds == config.thresholds and trained.net.exits
    assert not any("sides" in name for name in trained.net.state_dict())
    x = torch.cat([x for x, _ in build.batches(config, trained.dataset(), "test", 3)], 1)
    first = trained.net.infer(x)
    assert len(first.blocks.unique()) > 1
    trained.net.kept = [False, True, True]
    saved.save(tmp_path / "placed.pt", trained.net, config, "fastlif", trained.dataset())
    placed = fastlif.train.load(tmp_path / "placed.pt").net
    assert placed.kept == [False, True, True] and placed.depth == 3
    assert torch.equal(placed.hard, trained.net.hard) and placed.infer(x).blocks.min() == 1
    assert cli.main(["eval", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["accuracy"] == pytest.approx(done.test_accuracy)
    assert cli.main(["eval", str(tmp_path), "--steps", "2", "5", "--part", "validation", "--moments"]) == 0
    assert capsys.readouterr().out.count("moments") == 2


def test_train_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "in_fresh_process", lambda function, *args: function(*args))
    given = "--method bloctrain --model bloc-small --width 0.25 --steps 2 --epochs 1 --batch-size 256 --no-compare"
    assert cli.main(["train", *given.split(), "--hardness", "1", "--out", str(tmp_path / "run")]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert fastlif.train.load(tmp_path / "run").net.depth == 3


def plain(x, y):
    """Samples as rows to be compared in any order."""
    return sorted(zip(x.transpose(0, 1).flatten(1).to(torch.uint8).tolist(), y.tolist(), strict=True))


def test_what_is_cached(dataset):
    """Where samples vary, the cache has them as they are, if it is asked for; in auto it is left out."""
    order = torch.Generator().manual_seed(0)
    for augment, encode, expected in (
        (None, data.encode.direct, {"auto": True, "on": True, "off": False}),
        (data.load("digits").augment, data.encode.direct, {"auto": False, "on": True, "off": False}),
        (None, data.poisson, {"auto": False, "on": True, "off": False}),
    ):
        parts = dataset(augment=augment, encode=encode)
        net = build.network(SMALL, "fastlif", parts.shape, 10)
        net.hard[1] = torch.arange(10) < 3
        own = data.of_classes(parts, net.known(2).numpy())
        for cache, wanted in expected.items():
            config = change(SMALL, cache=cache, batch_size=2000)
            with bloc_course.inputs(config, net, 0, parts, order) as (batches, cached):
                assert not cached and isinstance(batches, data.Batches)
            with bloc_course.inputs(config, net, 2, parts, order) as (batches, cached):
                assert cached == wanted == isinstance(batches, SpikeCache)
                ((x, y),) = batches  # a batch of all there are: 2000 is more
                assert len(y) == len(own.train) and y.max() == 2
                if cached:
                    as_they_are = build.batches(config, own, "train", 3)
                    ((samples, labels),) = as_they_are
                    assert plain(x, y) == plain(joined(net.feed(2, samples)), labels)


def test_auto_does_without_a_cache_where_it_cannot_be(dataset, monkeypatch):
    parts, order = dataset(augment=None), torch.Generator()
    net = build.network(SMALL, "fastlif", parts.shape, 10)
    need = 1257 * 3 * 8 * 4 * 4 // 8  # 8 channels of 4x4
    for options, processes, cached in (
        ({"cache_limit": need / 1e9}, 1, True),
        ({"cache_limit": (need - 1) / 1e9}, 1, False),
        ({"sigmoid": 2.0}, 1, False),
        ({}, 2, False),
    ):
        monkeypatch.setattr(bloc_course.distributed, "size", lambda processes=processes: processes)
        with bloc_course.inputs(change(SMALL, **options), net, 1, parts, order) as (_, found):
            assert found == cached, options
        if not cached and "cache_limit" not in options:
            with pytest.raises(ValueError, match=r"leave it out \(cache off\)"):
                next(bloc_course.course(change(SMALL, cache="on", **options), net, parts, order, None, print))


def test_cached_and_not_it_learns_the_same(dataset, monkeypatch):
    """With one batch of all samples, whose order is all that differs."""
    dataset(augment=None)
    nets, filled, fill = [], [], SpikeCache.fill
    monkeypatch.setattr(SpikeCache, "fill", lambda self: (filled.append(self.number), fill(self))[1])
    for cache in ("on", "off"):
        config = change(SMALL, cache=cache, batch_size=1257, optimizer="sgd", hardness=1.0, epochs=3, finetune_lr=1e-2)
        run.train(config, on_epoch=lambda method, epoch: nets.append(method.net))
    assert filled == [1, 2]
    start = weights_of(build.network(SMALL, "fastlif", (1, 8, 8), 10))
    for begin, one, other in zip(start, weights_of(nets[0]), weights_of(nets[-1]), strict=True):
        assert (one - begin).norm() > 1e-3 and (one - other).norm() < 1e-3 * (one - begin).norm()


def test_a_cache_that_is_too_large(dataset):
    with pytest.raises(ValueError, match=r"1257 samples need .* MB, and the cache may have 0.0 MB: give it more"):
        run.train(change(SMALL, cache="on", cache_limit=1e-6, epochs=1))


def test_hard_classes_are_those_of_the_precision_of_training(monkeypatch):
    seen, split = [], bloc_course.split_classes
    monkeypatch.setattr(bloc_course, "split_classes", lambda *args: (seen.append(args[2]), split(*args))[1])
    config, nets = change(SMALL, precision="bfloat16", epochs=1, hardness=1.0), []
    run.train(config, on_epoch=lambda method, epoch: nets.append(method.net))
    batches = build.batches(config, build.dataset(config), "validation", 3)
    plain = class_accuracies(nets[0], batches, 3)
    with autocast(torch.device("cpu"), torch.bfloat16):
        expected = class_accuracies(nets[0], batches, 3)
    assert torch.equal(seen[2], expected) and not torch.equal(seen[2], plain)


def without(part, label):
    images, labels = part.tensors
    return TensorDataset(images[labels != label], labels[labels != label])


def test_data_that_cannot_tell_hard_classes(dataset):
    parts = data.load("digits")
    dataset(validation=Subset(parts.validation, []))
    with pytest.raises(ValueError, match=r"hard classes, .* need a validation part, and there is none: give held_out"):
        run.train(SMALL)
    dataset(validation=without(parts.validation, 4))
    with pytest.raises(ValueError, match=r"the validation part has no samples of classes \[4\]"):
        run.train(change(SMALL, epochs=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "convnet", "width": None}, r"blocks need a network of blocks with exits \(bloc-...\), not ConvNet"),
        ({"precision": "float16"}, "precision must be bfloat16 or none"),
        ({"low": 0.7}, "0 <= low <= high <= 1, got low=0.7, high=0.5"),
        ({"conf": 2.0}, "conf must be in"),
        ({"hardness": 95.5}, r"hardness is a share, in \[0, 1\], got 95.5"),
        ({"target": -0.1}, r"target is a share, in \[0, 1\], got -0.1"),
        ({"hardness_std": float("nan")}, "hardness_std must be a finite number"),
        ({"cache": "of"}, "unknown cache 'of'.*did you mean 'off'"),
        ({"cache_limit": 0.0}, "cache_limit must be a positive finite number"),
        ({"method": "local-bptt"}, "blocks need a network with stages and a readout"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        run.train(change(SMALL, **options))


def test_end_to_end(tmp_path):
    config = change(SMALL, method="bptt", epochs=2)
    nets = []
    done = run.train(config, out=tmp_path, on_epoch=lambda method, epoch: nets.append(weights_of(method.net)))
    assert len(done.epochs) == 2 and done.epochs[1].loss < done.epochs[0].loss
    assert not any(torch.equal(a, b) for a, b in zip(*nets, strict=True))
    net = fastlif.train.load(tmp_path).net
    assert isinstance(net, BlocNet) and not net.exits and all(block.detector is None for block in net.blocks)
    assert done.test_accuracy == pytest.approx(accuracy(net))
