"""The operators under opcheck, and layers under torch.compile: no graph breaks, same bits, no compilation per T."""

import pytest
import torch
from cases import HARD, SOFT, Case, make_params, make_x
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import fastlif
from fastlif.neuron import Neuron
from fastlif.ops import backends, state
from fastlif.surrogate import BY_NAME

HERE = [b for b in backends.BACKENDS if not backends.reasons(b, torch.device("cpu"), torch.float32)]
CALLS = [
    Case(SOFT, (5, 2, 3)),
    Case(SOFT, (20, 2, 3, 4), torch.bfloat16, learned="channel", v0=False),
    Case(HARD, (18, 2, 3, 4, 4), layout="channels_last", learned="scalar"),
    Case({**HARD, "state": "compact"}, (5, 7), layout="sliced_time"),
    Case(
        {"reset_delay": True, "truncate": (5, 2), "surrogate": ("sigmoid", 4.0)}, (13, 6), torch.float64, learned="each"
    ),
    Case({"surrogate": ("pass_through", 1.0)}, (4, 3), layout="expanded"),
    Case({}, (0, 3)),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    with torch.compiler.config.patch(force_disable_caches=True):  # a graph from the disk has the guards of its time
        yield
    torch._dynamo.reset()


def prepare(case):
    """(x, v0, {decay, gain, threshold}, Neuron, keep) of a case."""
    _, x = make_x(case)
    params = make_params(case)
    v0 = torch.zeros_like(x[0] if len(x) else x.sum(0)).detach().to(torch.promote_types(x.dtype, torch.float32))
    v0 = v0.requires_grad_() if case.v0 else None
    options = dict(case.options)
    if "surrogate" in options:
        options["surrogate"] = BY_NAME[options["surrogate"][0]](*options["surrogate"][1:])
    neuron = Neuron(**dict.fromkeys(params), **options)
    return x, v0, params, neuron, int(state.choose(neuron, True, bool(params), bool(params)))


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("case", CALLS, ids=str)
def test_opcheck_forward(case, backend):
    x, v0, params, neuron, keep = prepare(case)
    x = x.detach().requires_grad_()
    tensors = [params.get(name) for name in ("decay", "gain", "threshold")]
    torch.library.opcheck(
        torch.ops.fastlif.lif_forward,
        (x, v0, *tensors, neuron.values, neuron.options, keep, True, x.dtype, backend),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("case", CALLS, ids=str)
def test_opcheck_backward(case, backend):
    x, v0, params, neuron, keep = prepare(case)
    with torch.no_grad():
        tensors = [params.get(name) for name in ("decay", "gain", "threshold")]
        spikes, v, kept, bits = torch.ops.fastlif.lif_forward(
            x, v0, *tensors, neuron.values, neuron.options, keep, True, x.dtype, backend
        )
        k1, k2 = neuron.windows
        arguments = (
            torch.ones_like(spikes), torch.ones_like(v), x if keep == state.Keep.INPUT and k1 == k2 else None, v0,
            *tensors, kept, bits, list(spikes.shape), list(spikes.stride()), x.dtype, neuron.values, neuron.options,
            keep, [v0 is not None, *(t is not None for t in tensors)], backend,
        )  # fmt: skip
    torch.library.opcheck(
        torch.ops.fastlif.lif_backward,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 10),
        fastlif.LIF(0.8, reset="hard", surrogate="atan"),
        nn.Linear(10, 8),
        fastlif.LIF(0.8, learn_decay=True, learn_threshold=True),
        fastlif.PerStep(nn.Linear(8, 5)),
        fastlif.LIF(surrogate="rectangle", truncate=(7, 3)),
        fastlif.LI(0.9),
    )


def functional(x):
    spikes, v = fastlif.lif(x, decay=0.7, reset_delay=True, surrogate=fastlif.Sigmoid(3.0), bias=0.1)
    return torch.cat([spikes, v.unsqueeze(0)])


def gradients(function, x, *parameters):
    x = x.clone().requires_grad_()
    y = function(x)
    g = torch.linspace(-1, 1, y.numel()).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, [x, *parameters], g)]


@pytest.mark.parametrize(
    ("made", "inner"), (("network", "aot_eager"), ("functional", "aot_eager"), ("functional", "inductor"))
)
def test_no_breaks_same_bits_two_compilations(made, inner):
    net = network() if made == "network" else functional
    parameters = list(net.parameters()) if made == "network" else []
    counter = CompileCounterWithBackend(inner)
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for steps in (4, 5, 15, 16, 17, 31, 32, 33, 48, 100, 2, 64):
        x = torch.randn(steps, 3, 6)
        for got, want in zip(gradients(compiled, x, *parameters), gradients(net, x, *parameters), strict=True):
            assert got.equal(want), steps
    assert counter.frame_count <= 2


@pytest.mark.parametrize("options", [SOFT, {**HARD, "truncate": (7, 3)}, {"learn_decay": True, "channels": 6}], ids=str)
@pytest.mark.parametrize("train", (True, False))
def test_a_layer_alone(options, train):
    options = dict(options)
    if "surrogate" in options:
        options["surrogate"] = BY_NAME[options["surrogate"][0]](*options["surrogate"][1:])
    layer = fastlif.LIF(0.8, **options)
    counter = CompileCounterWithBackend("inductor" if train else "aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    for steps in (4, 5, 15, 16, 17, 33):
        x = torch.randn(steps, 2, 6, 3, 3)
        with torch.set_grad_enabled(train):
            if train:
                for got, want in zip(gradients(compiled, x), gradients(layer, x), strict=True):
                    assert got.equal(want)
            else:
                assert compiled(x).equal(layer(x))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("make", (
    lambda channels: fastlif.LIF(channels=channels, learn_threshold=True),
    lambda channels: fastlif.BatchNormLIF(channels, learn_decay=True, by_channel=True),
))  # fmt: skip
def test_a_number_of_channels_that_changes(make):
    """Dynamo makes it a symbol."""
    for channels in (3, 5, 6):
        layer, x = make(channels), torch.randn(6, 2, channels, 4)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=channels == 6 or None)
        assert compiled(x).equal(layer(x))


def test_layouts_survive_compilation():
    layer = fastlif.LIF(0.8)
    compiled = torch.compile(layer, fullgraph=True, backend="inductor")
    for layout in ("channels_last", "transposed", "sliced_time", "batch_first"):
        _, x = make_x(Case(shape=(5, 2, 3, 4, 6), layout=layout))
        got, want = compiled(x), layer(x)
        assert got.equal(want) and got.stride() == want.stride(), layout


def test_no_compilation_per_training_step():
    net = network()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        compiled(torch.randn(9, 3, 6)).square().mean().backward()
        optimizer.step()
    assert counter.frame_count == 1


def test_autocast():
    layer = fastlif.LIF(0.8)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        x = torch.randn(9, 3, 6)
        assert compiled(x).dtype == torch.bfloat16 and compiled(x).equal(layer(x))


def test_carried_state():
    compiled = fastlif.LIF(0.8, carry_state=True)
    eager = fastlif.LIF(0.8, carry_state=True)
    run = torch.compile(compiled, backend="aot_eager")
    for _ in range(4):
        x = torch.randn(5, 2, 6)
        with torch.no_grad():
            assert run(x).equal(eager(x))
    assert compiled.v.equal(eager.v)
