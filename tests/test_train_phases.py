"""Phases, losses, precisions and recipes of a run; TensorBoard; the network it leaves in one file."""

import dataclasses
import itertools
import json

import pytest
import torch

import fastlif
from fastlif import models
from fastlif.train import RECIPES, Bptt, Config, build, checkpoint, recipe, run
from fastlif.train.config import Phase

SMALL = Config(steps=2, epochs=1, batch_size=256)


def test_time_inheritance_is_phases_of_one_network(tmp_path):
    config = dataclasses.replace(SMALL, method="tit", inherit="1:2,2:1", steps=3, epochs=1, finetune_lr=1e-5)
    assert config.phases == [Phase(1, 2, "adamw", 3e-3), Phase(2, 1, "adamw", 1e-5), Phase(3, 1, "adamw", 1e-5)]
    weights, rates = [], []

    def look(method, epoch):
        weights.append(torch.cat([p.detach().flatten() for p in method.net.parameters()]))
        rates.append(method.optimizer.param_groups[0]["initial_lr"])

    done = run.train(config, out=tmp_path, on_epoch=look)
    assert [(epoch.number, epoch.steps) for epoch in done.epochs] == [(1, 1), (2, 1), (3, 2), (4, 3)]
    assert rates == pytest.approx([3e-3 / 25, 3e-3 / 25, 1e-5 / 25, 1e-5 / 25])  # OneCycleLR begins at a 25th
    first, second, third = ((b - a).norm() for a, b in itertools.pairwise(weights))
    assert 0 < third < first / 20 and 0 < second < first / 20  # the network goes on from where it was
    assert fastlif.train.load(tmp_path).net(torch.rand(64, 1, 1, 8, 8)).shape == (64, 1, 10)


def test_the_papers_schedule_is_tits_own():
    assert Config(method="tit", steps=6, epochs=50).phases == [
        Phase(2, 300, "adamw", 3e-3),
        Phase(6, 50, "adamw", 1e-4),
    ]
    assert Config(method="tet").phases == [Phase(6, 80, "adamw", 3e-3)]


class Killed(BaseException):
    """As by a signal."""


@pytest.mark.parametrize("at", [5, 9, 13])  # in the first phase, the second, and its last epoch; 4 batches an epoch
def test_a_killed_run_continues_through_its_phases(tmp_path, monkeypatch, at):
    config = dataclasses.replace(SMALL, method="tit", inherit="1:2", epochs=2, sdt_epochs=1, lr_decay="cosine")
    run.train(config, out=tmp_path / "whole")
    step, calls = Bptt.step, []

    def killing(self, x, y):
        calls.append(len(x))
        if len(calls) == at:
            raise Killed
        return step(self, x, y)

    (tmp_path / "killed").mkdir()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Bptt, "step", killing)
        run.train(config, out=tmp_path / "killed")
    run.train(config, out=tmp_path / "killed", resume=True)
    whole, resumed = (checkpoint.read(tmp_path / name / "fastlif.pt")["weights"] for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines = [(tmp_path / name / "fastlif.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    for one, other in zip(*lines, strict=True):
        one, other = json.loads(one), json.loads(other)
        assert all(given.pop(name) > 0 for given in (one, other) for name in ("step_ms", "seconds"))
        assert one == other


@pytest.fixture(autouse=True)
def folders(tmp_path):
    (tmp_path / "whole").mkdir()


def test_tet_takes_over_from_sdt():
    config = dataclasses.replace(SMALL, method="tet", epochs=3, sdt_epochs=2)
    seen = []
    run.train(config, on_epoch=lambda method, epoch: seen.append(method.loss.func.__name__))
    assert seen == ["sdt_loss", "sdt_loss", "tet_loss"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_keeps_less_and_learns_alike(precision, tmp_path):
    options = {"method": "tet", "epochs": 3, "batch_norm_lif": True, "reset": "hard", "lr_decay": "constant"}
    whole, mixed = (dataclasses.replace(SMALL, **options, precision=one) for one in ("float32", precision))
    losses = [[epoch.loss for epoch in run.train(config).epochs] for config in (whole, mixed)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.03)
    kept = []
    for config in (whole, mixed):
        net = build.network(config, "fastlif", (1, 8, 8), 10)
        method = build.method(config, net, config.phases[0], 1)
        kept.append(
            fastlif.saved_bytes(
                lambda x, method=method: method._outputs(method.net, x), torch.rand(2, 64, 1, 8, 8)
            ).total
        )
    assert kept[1] < 0.7 * kept[0]


def test_overflowing_gradients_leave_the_weights():
    net = build.network(SMALL, "fastlif", (1, 8, 8), 10)
    method = Bptt(net, torch.optim.SGD(net.parameters(), 0.1), precision=torch.float16)
    before = [p.detach().clone() for p in net.parameters()]
    method._scaler.scale(torch.ones(()))  # makes its state
    method._scaler.update(1e30)
    x, y = torch.rand(2, 8, 1, 8, 8), torch.arange(8)
    method.step(x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert method.state_dict()["scaler"]["scale"] < 1e30
    method._scaler.update(1.0)
    method.step(x, y)
    assert not all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("tet/")])
def test_recipes_are_configs_whose_networks_can_be_built(name):
    config = Config(**recipe(name))
    assert config.neuron["fire_on_equal"] is ("sew" in name) and config.neuron["surrogate"] == "triangle"
    assert config.lam == (1e-3 if "dvs" in name or "imagenet" in name or "48" in name else 0.05)
    small = {"convnet": {"layers": (4,)}, "vggsnn": {"layers": (4, "pool")}, "snn5": {"layers": (4, "pool")}}
    options = small.get(config.model, {"layers": ((4, 1), (8, 1)), "stem": 4})
    norm = lambda channels: fastlif.BatchNormLIF(channels, **{k: v for k, v in config.neuron.items() if k != "state"})  # noqa: E731
    net = models.build(config.model, (2, 16, 16), 3, norm_neurons=norm, **options)
    loss = build.loss(config, 1)(net(torch.rand(2, 4, 2, 16, 16)), torch.tensor([0, 1, 2, 0]))
    assert torch.isfinite(loss) and config.phases[-1].steps == config.steps


def test_the_papers_numbers():
    cifar = Config(**recipe("tet/cifar100/resnet19"))
    assert cifar.phases == [Phase(2, 300, "adam", 0.01), Phase(6, 50, "adam", 1e-4)]
    spiking = Config(**recipe("tet/imagenet/spiking-resnet34"))
    assert spiking.phases == [Phase(4, 90, "sgd", 0.1), Phase(6, 30, "adam", 1e-4)] and spiking.weight_decay == 4e-5
    with pytest.raises(
        ValueError, match=r"unknown recipe 'tet/cifar10/resnet-19'.*did you mean 'tet/cifar10/resnet19'"
    ):
        recipe("tet/cifar10/resnet-19")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inherit": "2"}, "inherit must be T:epochs,T:epochs, each at least 1, got '2'"),
        ({"inherit": "2:0"}, "inherit must be .* got '2:0'"),
        ({"inherit": "2:3,x:1"}, "inherit must be .* got 'x:1'"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'.*did you mean 'adam'"),
        ({"lr_decay": "cosin"}, "unknown lr_decay 'cosin'.*did you mean 'cosine'"),
        ({"precision": "bf16"}, "unknown precision 'bf16'"),
        ({"finetune_lr": 0.0}, "finetune_lr must be a positive finite number"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"sdt_epochs": 2}, "sdt_epochs is for method='tet'"),
        ({"method": "tet", "sdt_epochs": 81}, "sdt_epochs must be at most 80, all epochs there are, got 81"),
        ({"sigmoid": 10.0, "batch_norm_lif": True}, "sigmoid is plain PyTorch"),
        ({"sigmoid": 0.0}, "sigmoid must be a positive finite number"),
        ({"batch_norm_lif": True, "state": "compact"}, "state must be 'exact', got 'compact'"),
        ({"alpha": -1.0}, "alpha must be None or a positive finite number"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build.network(Config(**options), "fastlif", (1, 8, 8), 10)


def test_a_network_comes_back_from_its_file(tmp_path):
    config = dataclasses.replace(SMALL, batch_norm_lif=True, alpha=1.0, threshold=0.75, batch_size=64, epochs=2)
    nets = []
    done = run.train(config, out=tmp_path, on_epoch=lambda method, epoch: nets.append(method.net))
    state = torch.get_rng_state()
    trained = fastlif.train.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    x = 4 * torch.rand(2, 30, 1, 8, 8)
    with torch.no_grad():
        outputs = trained.net(x)
        assert torch.equal(outputs, nets[0].eval()(x)) and outputs.std(1).min() > 0
    assert trained.config == dataclasses.replace(config, device="auto") and trained.layers == "fastlif"
    assert not trained.net.training and (trained.shape, trained.classes) == ((1, 8, 8), 10)
    method = Bptt(trained.net, torch.optim.SGD(trained.net.parameters(), 0.1))
    assert fastlif.train.evaluate(method, build.batches(config, trained.dataset(), "test", 2)) == done.test_accuracy
    assert fastlif.train.load(tmp_path / "fastlif.pt").net.state_dict().keys() == trained.net.state_dict().keys()
    with pytest.raises(ValueError, match=r"for samples \[1, 8, 8\] of 10 classes, and event-digits has \[2, 16, 16\]"):
        trained.dataset(name="event-digits")
    with pytest.raises(ValueError, match="is what a run goes on from"):
        fastlif.train.load(tmp_path / "fastlif.checkpoint.pt")
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(ValueError, match=r"text\.pt is no checkpoint, or damaged"):
        fastlif.train.load(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        fastlif.train.load(tmp_path / "nowhere.pt")


def test_tensorboard_has_the_epochs_once(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = run.train(dataclasses.replace(SMALL, epochs=2), out=tmp_path, tensorboard=True)
    run.train(dataclasses.replace(SMALL, epochs=2), out=tmp_path, tensorboard=True)
    found = accumulators.EventAccumulator(str(tmp_path / "tensorboard" / "fastlif")).Reload()
    for name in ("loss", "validation_accuracy", "step_ms"):
        assert [event.step for event in found.Scalars(name)] == [1, 2]
    assert [e.value for e in found.Scalars("loss")] == pytest.approx([epoch.loss for epoch in done.epochs])


def test_poisson_input_through_the_options():
    config = dataclasses.replace(SMALL, encode="poisson")
    x, _ = next(iter(build.batches(config, build.dataset(config), "test", 3)))
    assert set(x.unique().tolist()) == {0.0, 1.0} and not torch.equal(x[0], x[1])
    with pytest.raises(ValueError, match="takes no option 'root'"):
        build.dataset(dataclasses.replace(SMALL, root="somewhere"))


def test_sigmoid_spikes_have_their_own_gradient():
    from fastlif.train import naive

    layer = naive.SigmoidLIF(4.0, 0.5, 1.0, reset="hard").double()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    h = x[0]
    s = torch.sigmoid(4 * (h - 1))
    torch.testing.assert_close(layer(x)[0], s)
    torch.testing.assert_close(layer(x)[1], torch.sigmoid(4 * (0.5 * h * (1 - s) + x[1] - 1)))
    config = dataclasses.replace(SMALL, sigmoid=10.0, reset="hard", detach_reset=False)
    net = build.network(config, "fastlif", (1, 8, 8), 10)
    assert sum(isinstance(module, naive.SigmoidLIF) for module in net.modules()) == 3
