"""Planning: what is predicted from shapes against what real tensors then take, and what is said where nothing fits."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import fastlif
from fastlif import cli, models
from fastlif.memory.live import training_step

SHAPE = (6, 3, 2, 8, 8)


class Foreign(nn.Module):
    """Layers that know nothing of spikes around one that makes them, and a residual addition."""

    def __init__(self):
        super().__init__()
        self.inside, self.neurons = nn.Conv2d(2, 8, 3, padding=1), fastlif.LIF(surrogate="atan")
        self.between, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.out = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.1), nn.Flatten(), nn.Linear(128, 5))

    def forward(self, x):
        size = x.shape[:2]
        s = self.neurons(self.inside(x.flatten(0, 1)).unflatten(0, size))
        s = s + self.neurons(self.norm(self.between(s.flatten(0, 1))).unflatten(0, size))
        return self.out(s.flatten(0, 1)).unflatten(0, size)


def conv_net(**options):
    return models.ConvNet(SHAPE[2:], 5, layers=(8, "pool", 16), **options)


def dense(*more, **options):
    """Without batch norm in training mode: windows of time are possible."""
    return nn.Sequential(
        fastlif.PerStep(nn.Linear(40, 50)),
        fastlif.LIF(0.9, **options),
        fastlif.PerStep(nn.Linear(50, 30)),
        fastlif.LIF(0.8, reset="hard", surrogate="rectangle"),
        *more,
        fastlif.LI(),
    )


NETS = {
    "conv": (conv_net, SHAPE),
    "hard": (lambda: conv_net(neurons=lambda: fastlif.LIF(reset="hard", learn_threshold=True)), SHAPE),
    "learned": (lambda: conv_net(neurons=lambda: fastlif.LIF(learn_decay=True)), SHAPE),
    "two bits": (lambda: conv_net(neurons=lambda: fastlif.LIF(surrogate="rectangle")), SHAPE),
    "fused": (lambda: conv_net(norm_neurons=fastlif.BatchNormLIF), SHAPE),
    "foreign": (Foreign, SHAPE),
    "eval": (lambda: conv_net().eval(), (9, *SHAPE[1:])),
    "dense": (dense, (70, 3, 40)),
    "truncated": (lambda: dense(truncate=5), (23, 3, 40)),
    "random": (lambda: dense(nn.Dropout(0.2)), (33, 3, 40)),
    "one step": (dense, (1, 3, 40)),
    "carried": (lambda: dense(carry_state=True, truncate=6), (41, 3, 40)),
}


def each_choice(net, found):
    for choice in found.choices:
        if choice.reason is None:
            for p in net.parameters():
                p.grad = None
            yield choice, replace(found, chosen=choice).apply(net)


@pytest.mark.parametrize("name", NETS)
def test_predictions_hold(name):
    """What saved_bytes counts within 1 %, and the most bytes alive, followed through a real run, within 2 %."""
    make, shape = NETS[name]
    net, x = make(), torch.rand(shape)
    found = fastlif.plan(net, shape)
    assert found.chosen == found.choices[0]
    for choice, applied in each_choice(net, found):
        kept = fastlif.saved_bytes(applied, x).total
        assert math.isclose(choice.saved, kept, rel_tol=0.01, abs_tol=64), choice
        fastlif.reset_state(applied)
        assert math.isclose(choice.peak, training_step(applied, x)[1], rel_tol=0.02), choice
    assert [c.rank for c in found.choices] == list(range(len(found.choices)))


def test_peak_agrees_with_the_allocator():
    """The allocator's own count, where gradients of the weights are in it, and operators' workspaces are small."""
    net, shape = dense(), (40, 64, 40)
    x, found = torch.rand(shape), fastlif.plan(net, shape)
    for choice, applied in each_choice(net, found):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            y = applied(x)
            y.backward(torch.ones_like(y))
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        now = most = 0
        for event in sorted(events, key=lambda e: e.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        assert math.isclose(choice.peak, most, rel_tol=0.1), choice
        del y


def test_under_autocast():
    net, x = conv_net(), torch.rand(SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        choice = fastlif.plan(net, SHAPE).chosen
        kept = fastlif.saved_bytes(net, x).total
    assert math.isclose(choice.saved, kept, rel_tol=0.01) and kept < 0.8 * fastlif.saved_bytes(net, x).total


def test_of_another_dtype():
    net = dense().double()
    kept = fastlif.saved_bytes(net, torch.rand(20, 3, 40, dtype=torch.float64)).total
    assert fastlif.plan(net, (20, 3, 40), dtype=torch.float64).chosen.saved == kept


def test_the_fastest_that_fits_is_chosen():
    net, shape = dense(), (12, 3, 40)
    everything = fastlif.plan(net, shape)
    exact, compact = everything.choices[:2]
    assert (exact.state, compact.state) == ("exact", "compact") and compact.peak < exact.peak
    assert fastlif.plan(net, shape, exact.peak).chosen == exact
    assert fastlif.plan(net, shape, exact.peak - 1).chosen == compact
    assert fastlif.plan(net, shape, f"{exact.peak / 1024} KiB ").chosen == exact
    windowed = fastlif.plan(net, shape, min(choice.peak for choice in everything.choices))
    assert windowed.chosen.steps == 4 and "chosen" in str(windowed) and "does not fit" in str(windowed)


def test_a_budget_that_nothing_meets_says_the_smallest_that_would_do():
    net = conv_net()
    with pytest.raises(ValueError, match=r"smallest that would do is [0-9]+ bytes") as error:
        fastlif.plan(net, SHAPE, "2 kB")
    smallest = int(str(error.value).partition("would do is ")[2].split()[0])
    assert fastlif.plan(net, SHAPE, smallest).chosen.peak == smallest
    with pytest.raises(ValueError, match="too small"):
        fastlif.plan(net, SHAPE, smallest - 1)


def test_choices_that_are_impossible_say_why():
    reasons = {str(c): c.reason for c in fastlif.plan(conv_net(norm_neurons=fastlif.BatchNormLIF), SHAPE).choices}
    assert "batch norm in training mode" in reasons["state exact, spikes as bits, windows"]
    assert "keep less" in reasons["state compact"]
    reasons = [c.reason for c in fastlif.plan(dense(), (1, 3, 40)).choices]
    assert reasons[-1] == "1 step cannot be split"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((dense, (4, 3, 40)), TypeError, "net must be a torch.nn.Module"),
        ((torch.compile(dense()), (4, 3, 40)), TypeError, "compiled"),
        ((dense(), (0, 3, 40)), ValueError, "input_shape must be sizes"),
        ((dense(), ()), ValueError, "input_shape must be sizes"),
        ((dense(), 4), ValueError, "input_shape must be sizes"),
        ((dense(), (4, 3, 40), "3 XB"), ValueError, "budget must be"),
        ((dense(), (4, 3, 40), 0), ValueError, "budget must be"),
        ((dense(), (4, 3, 40), True), TypeError, "budget must be"),
        ((dense(), (4, 3, 40), float("inf")), ValueError, "budget must be"),
        ((dense(), (4, 3, 41)), ValueError, r"net fails on x \[4, 3, 41\]"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        fastlif.plan(*arguments)


def test_a_network_that_reads_values_is_refused():
    class Reads(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(RuntimeError, match="reads values"):
        fastlif.plan(Reads(), (4, 3))


def test_the_network_is_left_alone():
    net = conv_net(neurons=lambda: fastlif.LIF(carry_state=True))
    net(torch.rand(SHAPE)).sum().backward()
    tensors = [*net.state_dict().values(), *(p.grad for p in net.parameters())]
    tensors += [m.v for m in net.modules() if isinstance(m, fastlif.LIF)]
    before, generator = [(t, t.clone(), t._version) for t in tensors], torch.get_rng_state()
    modules = [(type(m), m.training, getattr(m, "neuron", None)) for m in net.modules()]
    found = fastlif.plan(net, SHAPE, "1 GB")
    assert all(t.equal(values) and t._version == version for t, values, version in before)
    assert [m.v for m in net.modules() if isinstance(m, fastlif.LIF)] == tensors[-2:]
    assert torch.get_rng_state().equal(generator)
    applied = replace(found, chosen=found.choices[3]).apply(net)
    assert modules == [(type(m), m.training, getattr(m, "neuron", None)) for m in net.modules()]
    assert list(map(id, applied.parameters())) == list(map(id, net.parameters()))


def test_what_is_applied_computes_the_same():
    net, x = dense(), torch.rand(20, 3, 40)
    expected = net(x)
    wanted = torch.autograd.grad(expected.sum(), list(net.parameters()))
    for choice, applied in each_choice(net, fastlif.plan(net, tuple(x.shape))):
        y = applied(x)
        assert y.equal(expected)
        y.sum().backward()
        if choice.state == "exact":
            for p, g in zip(net.parameters(), wanted, strict=True):
                torch.testing.assert_close(p.grad, g)


def test_on_the_command_line(capsys):
    arguments = ["plan", "--steps", "4", "--batch", "2", "--shape", "2", "8", "8", "--classes", "5"]
    assert cli.main([*arguments, "--budget", "1 GB"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("kept", "peak", "compact", "chosen", "budget of 1.0 GB", "not possible"))
    assert cli.main([*arguments, "--surrogate", "rectangle", "--reset", "soft", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["input_shape"] == [4, 2, 2, 8, 8] and found["chosen"] == found["choices"][0]
    net = models.ConvNet((2, 8, 8), 5, lambda: fastlif.LIF(surrogate="rectangle"))
    assert found["chosen"]["saved"] == fastlif.saved_bytes(net, torch.rand(4, 2, 2, 8, 8)).total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "convnte"], "did you mean 'convnet'"),
        (["--reset", "hart"], "did you mean 'hard'"),
        (["--steps", "0"], "input_shape must be"),
        (["--steps", "2", "--batch", "1", "--budget", "1 kB"], "smallest that would do is"),
    ],
)
def test_wrong_options_end_with_one_line(arguments, message, capsys):
    assert cli.main(["plan", *arguments]) == 2
    shown = capsys.readouterr().err.strip()
    assert message in shown and shown.startswith("fastlif plan: error:") and "\n" not in shown
