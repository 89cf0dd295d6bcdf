"""Local truncated BPTT: its gradients against those of whole graphs, of detached states, and of blocks alone."""

import functools
import weakref

import pytest
import torch
from torch import nn

import fastlif
from fastlif.losses import rate_mse_loss, sdt_loss
from fastlif.memory.spikes import SPIKES, known
from fastlif.models.network import Network
from fastlif.train import Bptt, fit, naive
from fastlif.train.local_blocks import Classifier, RandomLinear, units_of, weights
from fastlif.train.local_bptt import LocalBPTT

LIF = functools.partial(fastlif.LIF, 0.8, 0.5, surrogate="rectangle", reset_amount=0.3)


def net(dtype=torch.float64, neurons=LIF):
    """Four layers with weights before the readout, pooling with neurons between them."""
    torch.manual_seed(0)
    step = fastlif.PerStep
    stages = [step(nn.Conv2d(1, 4, 3, padding=1)), neurons(), step(nn.AvgPool2d(2)), neurons()]
    stages += [step(nn.Conv2d(4, 6, 3, padding=1)), neurons(), step(nn.AvgPool2d(2)), neurons()]
    stages += [step(nn.Flatten(), nn.Linear(24, 12)), neurons(), step(nn.Linear(12, 8)), neurons()]
    made = Network((1, 8, 8), 3, stages, nn.Sequential(step(nn.Flatten(), nn.Linear(8, 3)), neurons())).to(dtype)
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(3)
    return made


def batch(steps=6, size=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(steps, size, 1, 8, 8, generator=generator, dtype=dtype)
    return x, torch.tensor([0, 1, 2, 1, 0])[:size]


def sgd(parameters):
    return torch.optim.SGD(parameters, 1.0)


def classifiers(features, classes, number):
    torch.manual_seed(100 + number)
    return Classifier(features, classes, number, LIF).double()


def learned(network, before):
    """What a step of SGD at rate 1 has taken off: the gradients, by name."""
    return {name: before[name] - p.detach() for name, p in network.named_parameters()}


def by(method, x, y):
    """The gradients that a method's step has followed."""
    before = {name: p.detach().clone() for name, p in method.net.named_parameters()}
    method.step(x, y)
    return learned(method.net, before)


def close(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        assert expected[name].norm() > 0, name
        assert (found[name] - expected[name]).norm() <= 1e-10 * expected[name].norm(), name


def test_one_window_and_block_is_bptt():
    x, y = batch()
    network = net()
    bptt = Bptt(network, sgd(network.parameters()), loss=rate_mse_loss)
    close(by(LocalBPTT(net(), sgd, 6), x, y), by(bptt, x, y))


@pytest.mark.parametrize(("window", "steps"), [(2, 6), (1, 6), (4, 6), ((3, 1), 6), ((3, 2), 8), ((4, 2), 7)])
def test_windows_are_detached_states(window, steps):
    x, y = batch(steps)
    found = by(LocalBPTT(net(), sgd, window, update="sample"), x, y)
    network = net()
    outputs = cut_by_hand(network, x, window)
    k1 = window if isinstance(window, int) else window[0]
    sum(rate_mse_loss(part, y) for part in outputs.split(k1)).backward()
    close(found, {name: p.grad for name, p in network.named_parameters()})


def cut_by_hand(network, x, window):
    """Plain PyTorch: one step at a time, the membranes detached where a window's gradient begins."""
    k1, k2 = (window, window) if isinstance(window, int) else window
    layers = [m for m in network.modules() if isinstance(m, fastlif.LIF)]
    for layer in layers:
        layer.carry_state = True
    found = []
    for t in range(len(x)):
        place, length = t % k1, min(k1, len(x) - t + t % k1)
        carries = place >= length - k2
        if place == 0 or place == length - k2:
            fastlif.detach_state(network)
        with torch.set_grad_enabled(carries):
            found.append(network(x[t : t + 1]))
    return torch.cat(found)


def test_blocks_are_trained_as_if_alone():
    x, y = batch()
    method = LocalBPTT(net(), sgd, 6, 2, classifiers)
    assert len(method.units) == 2
    expected, h = {}, x
    twin = net()
    for number, (unit, own) in enumerate(zip(method.units, units_of(twin, 2, classifiers), strict=True)):
        alone = Network((1, 8, 8), 3, [], nn.Identity())
        alone.unit = own
        outputs, h = own(h)
        rate_mse_loss(outputs, y).backward()
        h = h.detach()
        assert len(list(unit.parameters())) == len(list(own.parameters())) and number < 2
    expected = {name: p.grad for name, p in twin.named_parameters()}
    close(by(method, x, y), expected)
    heads = [p for unit in method.units[:-1] for p in unit.classifier.parameters()]
    assert len(heads) == 2


def test_updates_follow_windows_or_samples():
    x, y = batch()
    weights = {}
    for update in ("window", "sample"):
        momentum = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)
        method = LocalBPTT(net(), momentum, 2, 1, classifiers, update=update)
        steps = []
        method.optimizers[0].register_step_post_hook(lambda *_, steps=steps: steps.append(1))
        method.step(x, y)
        weights[update] = torch.cat([p.detach().flatten() for p in method.net.parameters()])
        assert len(steps) == (3 if update == "window" else 1) and len(method.units) == 4
    assert not torch.equal(*weights.values())


def test_membranes_and_modes_are_as_before():
    x, y = batch()
    method = LocalBPTT(net(), sgd, 2, 2, classifiers)
    method.step(x, y)
    layers = [m for m in method.net.modules() if isinstance(m, fastlif.LIF)]
    assert all(layer.v is None and not layer.carry_state for layer in layers)
    method.loss = lambda outputs, labels: outputs.sum() * torch.nan
    with pytest.raises(fastlif.train.NotFiniteError):
        method.step(x, y)
    assert all(layer.v is None and not layer.carry_state for layer in layers)


def test_predictions_are_rates_over_all_steps():
    x, _ = batch(7)
    method = LocalBPTT(net(), sgd, 2, 1, classifiers)
    assert torch.equal(method.predict(x), net()(x).mean(0)) and method.predict(x).sum() > 0


def test_random_weights_are_neither_stored_nor_kept():
    layer = RandomLinear(5, 3, 7)
    x = torch.randn(4, 6, 5, requires_grad=True)
    assert not list(layer.parameters()) and not layer.state_dict()
    assert torch.equal(layer(x), RandomLinear(5, 3, 7)(x)) and not torch.equal(layer(x), RandomLinear(5, 3, 8)(x))
    assert fastlif.saved_bytes(layer, x).total == 0
    own = weights((3, 5), 7, x)
    expected = nn.functional.linear(x, own)
    (grad,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(grad, 2 * expected @ own)
    assert own.abs().max() <= 5**-0.5 and own.std() > 0.1


def test_random_classifiers_stay():
    x, y = batch()
    random = functools.partial(Classifier, neurons=LIF, seed=3)
    method = LocalBPTT(net(), sgd, 3, 1, random)
    assert [len(list(unit.parameters())) for unit in method.units] == [2, 2, 2, 4]
    before = [p.detach().clone() for p in method.units[0].parameters()]
    method.step(x, y)
    assert any(not torch.equal(a, b) for a, b in zip(before, method.units[0].parameters(), strict=True))


def test_cross_entropy_learns():
    x, y = batch(4, dtype=torch.float32)
    adam = functools.partial(torch.optim.Adam, lr=3e-3)
    method = LocalBPTT(net(torch.float32), adam, 2, 2, functools.partial(Classifier, neurons=LIF), loss=sdt_loss)
    losses = [epoch.loss for epoch in fit(method, [(x, y)] * 5, 12, [(x, y)])]
    assert losses[-1] < 0.9 * losses[0]


def test_a_method_continues_from_its_state():
    x, y = batch()
    decay = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)

    def adam(number=None):
        return LocalBPTT(net(), functools.partial(torch.optim.Adam, lr=1e-2), 2, 1, classifiers, decay)

    through, first, second = adam(), adam(), adam()
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
    assert through.optimizers[0].param_groups[0]["lr"] == 1e-2 / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be k or"),
        ({"window": (2,)}, r"1 <= k2 <= k1, got \(2,\)"),
        ({"window": (2, 3)}, "1 <= k2 <= k1"),
        ({"window": 2, "update": "batch"}, "update must be 'window' or 'sample', got 'batch'"),
        ({"window": 2, "block": 0}, "n must be at least 1, got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        LocalBPTT(net(), sgd, **options)


@pytest.mark.parametrize("window", [2.5, (4, 2.0), True, None])
def test_windows_are_integers(window):
    with pytest.raises(TypeError, match=r"window must be k or \(k1, k2\), integers, got"):
        LocalBPTT(net(), sgd, window)


def test_neurons_that_forget_are_refused():
    neurons = functools.partial(naive.LIF, 0.8, 0.5)
    with pytest.raises(ValueError, match="windows need neurons that carry their membrane"):
        LocalBPTT(net(neurons=neurons), sgd, 2)


def test_a_window_beyond_the_sample_and_a_network_without_stages():
    x, y = batch()
    with pytest.raises(ValueError, match="a window must be at most T = 6 steps, got 7"):
        LocalBPTT(net(), sgd, 7).step(x, y)
    with pytest.raises(ValueError, match="blocks need a network with stages and a readout"):
        LocalBPTT(nn.Linear(3, 3), sgd, 2)


def test_what_a_block_hands_on_is_bits_while_its_gradient_runs():
    method, alive, outputs = LocalBPTT(net(torch.float32), sgd, 3, 1), [], []
    for unit in method.units[:-1]:
        unit.block.register_forward_hook(lambda block, x, output: outputs.append(weakref.ref(output)))
        next(unit.parameters()).register_hook(lambda gradient: alive.append(outputs[-1]() is not None))
    inputs = []
    for unit in method.units[1:]:
        unit.register_forward_pre_hook(lambda unit, x: inputs.append((known(x[0]), x[0].unique().tolist())))
    x, y = batch(dtype=torch.float32)
    method.step(x, y)
    assert len(alive) == 2 * 3 and not any(alive)
    assert len(inputs) == 2 * 3 and all(kind == SPIKES and set(values) <= {0, 1} for kind, values in inputs)
