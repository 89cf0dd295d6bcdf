"""Eager calls go past torch.library where nobody watches, and by the operator where somebody does: the same bits."""

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import fastlif
from fastlif import ops
from fastlif.ops import batch_norm

X = torch.randn(6, 2, 3, 4)
CALLS = {
    "lif": lambda x: fastlif.lif(x, reset="hard")[0],
    "batch_norm_lif": lambda x: fastlif.batch_norm_lif(x, training=True)[0],
}
OPERATORS = {
    "lif": (ops.LIF_FORWARD, ops.LIF_BACKWARD),
    "batch_norm_lif": (batch_norm.FORWARD, batch_norm.BACKWARD),
}


@pytest.fixture(params=CALLS)
def name(request):
    return request.param


def outcome(name, x):
    x = x.detach().requires_grad_()
    spikes = CALLS[name](x)
    return spikes.detach(), torch.autograd.grad(spikes.cos().sum(), x)[0]


class Seen(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self):
        super().__init__()
        self.operators = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operators.add(function)
        return function(*args, **(kwargs or {}))


def equal(got, want):
    return all(a.equal(b) for a, b in zip(got, want, strict=True))


def test_a_mode_sees_the_operators(name):
    want = outcome(name, X)
    with Seen() as seen:
        got = outcome(name, X)
    assert equal(got, want) and seen.operators.issuperset(OPERATORS[name])
    with FlopCounterMode(display=False):
        assert equal(outcome(name, X), want)


def test_the_profiler_sees_the_operators(name):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        outcome(name, X)
    assert {operator.name() for operator in OPERATORS[name]} <= {event.name for event in profile.events()}


def test_a_subclass_sees_the_operators(name):
    """Two tensors as one, which runs every operator on both."""
    other = X.flip(0)
    spikes = CALLS[name](TwoTensor(X, other))
    assert spikes.a.equal(CALLS[name](X)) and spikes.b.equal(CALLS[name](other))


def test_nobody_watching_nothing_is_dispatched(name, monkeypatch):
    """Which is the point of it."""
    want = outcome(name, X)

    def refuse(*args):
        raise AssertionError("dispatched")

    for operator in OPERATORS[name]:
        monkeypatch.setattr(type(operator), "__call__", refuse)
    assert equal(outcome(name, X), want)


def test_tensors_without_memory(name):
    assert CALLS[name](X.to("meta")).shape == X.shape
    x = X.to("meta").requires_grad_()
    CALLS[name](x).sum().backward()
    assert x.grad.is_meta and x.grad.shape == x.shape


def test_the_graph_names_the_layer(name):
    spikes = CALLS[name](X.clone().requires_grad_())
    assert spikes.grad_fn.name() == {"lif": "LIFBackward", "batch_norm_lif": "BatchNormLIFBackward"}[name]


def test_a_second_backward_is_refused(name):
    x = X.clone().requires_grad_()
    (gx,) = torch.autograd.grad(CALLS[name](x).cos().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        gx.sum().backward()


def test_inference_mode(name):
    with torch.inference_mode():
        assert CALLS[name](X).equal(CALLS[name](X))
    assert CALLS[name](X).grad_fn is None
