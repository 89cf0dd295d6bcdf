"""Runs of local truncated BPTT: options, recipes, resume, several processes' blocks, and what is left."""

import dataclasses

import pytest
import torch

import fastlif
from fastlif import models
from fastlif.train import RECIPES, Config, build, checkpoint, compare, recipe, run
from fastlif.train.local_blocks import RandomLinear
from fastlif.train.local_bptt import LocalBPTT

SMALL = Config(**recipe("local/digits/lenet1"))
SMALL = dataclasses.replace(SMALL, steps=5, window="2", block=2, epochs=2, batch_size=256)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("local/")])
def test_recipes_make_methods(name):
    config = Config(**recipe(name))
    shape, small = (2, 32, 32), {"vgg11": {"layers": (4, "pool") + 7 * (4,), "hidden": (8, 8)}}
    small |= {"sew-resnet18": {"layers": ((4, 2), (8, 1)), "stem": 4}}
    small |= {"alexnet": {"layers": (4, "pool", 4, 4, "pool", 4, 4, 4), "hidden": (8, 8)}}
    options = small.get(config.model, {"layers": (4, "pool", 4, "pool", 4), "hidden": (8,)})
    neurons = lambda: fastlif.LIF(**config.neuron)  # noqa: E731
    net = models.build(config.model, shape, 3, neurons, **options)
    method = build.method(dataclasses.replace(config, lr=1e-4), net, config.phases[0], 10)
    assert isinstance(method, LocalBPTT) and (method.length, method.carries) == config.windows
    assert len(method.units) == -(-len(hidden(net)) // config.block)
    outcome = method.step(torch.rand(config.steps, 2, *shape), torch.tensor([0, 2]))
    assert torch.isfinite(outcome.loss) and outcome.scores.shape == (2, 3)
    assert config.neuron["threshold"] == config.neuron["reset_amount"] == 0.3


def hidden(net):
    """Layers with weights on the main path."""
    kinds = torch.nn.Conv2d, torch.nn.Linear
    return [n for n, m in net.stages.named_modules() if isinstance(m, kinds) and "shortcut" not in n]


class Killed(BaseException):
    """As by a signal."""


@pytest.mark.parametrize("options", [{}, {"dropout": 0.2}, {"inherit": "5:1", "epochs": 1}])
def test_a_killed_run_continues(tmp_path, monkeypatch, options):
    config = dataclasses.replace(SMALL, **options)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    run.train(config, out=whole)
    step, calls = LocalBPTT.step, []

    def killing(self, x, y):
        calls.append(1)
        if len(calls) == 6:  # in the second of two epochs of 4 batches
            raise Killed
        return step(self, x, y)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LocalBPTT, "step", killing)
        run.train(config, out=killed)
    run.train(config, out=killed, resume=True)
    one, other = (checkpoint.read(folder / "fastlif.pt")["weights"] for folder in (whole, killed))
    assert one and all(torch.equal(one[name], other[name]) for name in one)


def test_classifiers_go_on_through_phases():
    config = dataclasses.replace(SMALL, inherit="4:1", epochs=1, block=1, finetune_lr=1e-12)
    found = []

    def look(method, epoch):
        found.append(torch.cat([p.detach().flatten() for unit in method.units for p in unit.parameters()]))

    run.train(config, on_epoch=look)
    torch.testing.assert_close(*found)


def test_a_network_with_random_classifiers_comes_back(tmp_path):
    config = dataclasses.replace(SMALL, classifiers="random", epochs=1)
    done = run.train(config, out=tmp_path)
    trained = fastlif.train.load(tmp_path)
    assert any(isinstance(module, RandomLinear) for module in trained.net.readout.modules())
    assert not list(trained.net.readout.parameters())
    method = build.method(config, trained.net, config.phases[0], 1)
    assert run.evaluate(method, build.batches(config, trained.dataset(), "test", 5)) == done.test_accuracy


def test_kept_bytes_are_those_of_one_block_and_window():
    one = compare.kept(SMALL, "fastlif").total
    assert compare.kept(dataclasses.replace(SMALL, window="4"), "fastlif").total == pytest.approx(2 * one, rel=0.02)
    whole = compare.kept(dataclasses.replace(SMALL, block=None), "fastlif").total
    assert compare.kept(dataclasses.replace(SMALL, block=1), "fastlif").total < one < whole
    assert compare.kept(dataclasses.replace(SMALL, method="bptt", steps=2), "fastlif").total == whole
    assert compare.kept(dataclasses.replace(SMALL, window="5,2"), "fastlif").total == one, "nothing of the other steps"


def test_convolutions_are_recomputed_in_blocks_too():
    whole = dataclasses.replace(SMALL, window="5", block=1, surrogate="triangle")  # whose neurons keep their input
    plain, again = (dataclasses.replace(whole, recompute=choice) for choice in (False, True))
    kept = [compare.kept(config, "fastlif").total for config in (plain, again)]
    assert kept[1] < 0.5 * kept[0]
    weights = []
    for config in (plain, again):
        net, (x, y) = compare.begin(config, "fastlif")
        build.method(config, net, config.phases[0], 1).step(x, y)
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": "two"}, "window must be k or k1,k2, got 'two'"),
        ({"window": "2,3"}, "1 <= k2 <= k1"),
        ({"window": "4,3,2"}, "window must be k or k1,k2, got '4,3,2'"),
        ({"window": "6"}, "a window must be at most T = 5 steps, got 6"),
        ({"window": "5", "inherit": "6:1,4:1"}, "a window must be at most T = 4 steps, got 5"),
        ({"sigmoid": 1.0}, "windows need neurons that carry their membrane"),
        ({"block": 0}, "n must be at least 1, got 0"),
        ({"model": "sew-resnet34", "block": 1}, "belong together: n must be at least 2"),
        ({"classifiers": "fixed"}, "unknown classifiers 'fixed'"),
        ({"update": "batch"}, "unknown update 'batch'"),
        ({"loss": "mae"}, "unknown loss 'mae'"),
        ({"precision": "float16"}, "precision must be bfloat16 or none"),
        ({"surrogate": "rectangel:0.6"}, "unknown surrogate 'rectangel'.*did you mean 'rectangle'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        run.train(dataclasses.replace(SMALL, **options))


def test_a_window_fits_into_the_steps_of_every_phase():
    with pytest.raises(TypeError, match="window must be a text, 'k' or 'k1,k2', got 2"):
        dataclasses.replace(SMALL, window=2)
    late = dataclasses.replace(SMALL, inherit="6:1", steps=4, window="5")
    with pytest.raises(ValueError, match="a window must be at most T = 4 steps, got 5"):
        build.method(late, compare.begin(late, "fastlif")[0], late.phases[0], 1)
    config = dataclasses.replace(SMALL, inherit="4:1", window="")
    for phase in config.phases:  # all of T in each
        net, _ = compare.begin(config, "fastlif")
        assert build.method(config, net, phase, 1).length == phase.steps
