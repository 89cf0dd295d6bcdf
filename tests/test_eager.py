"""Eager calls go past torch.library where nobody watches, and by the operator where somebody does: the same bits."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import fastlif
from fastlif import ops
from fastlif.ops import batch_norm, eager

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


@pytest.mark.parametrize("which", ("x", "gs"))
def test_a_subclass_sees_the_operators(name, which, monkeypatch):
    """Two tensors as one, which runs every operator on both."""
    seen, dispatch = set(), TwoTensor.__torch_dispatch__

    def note(cls, function, types, args=(), kwargs=None):
        seen.add(function)
        return dispatch(function, types, args, kwargs)

    monkeypatch.setattr(TwoTensor, "__torch_dispatch__", classmethod(note))
    x = TwoTensor(X, X.flip(0)) if which == "x" else X.clone()
    gs = TwoTensor(X.cos(), X.sin())
    spikes = CALLS[name](x.requires_grad_())
    (gx,) = torch.autograd.grad(spikes, x, gs)
    assert seen.issuperset(OPERATORS[name] if which == "x" else OPERATORS[name][1:])
    for half in ("a", "b"):
        plain = (getattr(x, half).detach() if which == "x" else X.clone()).requires_grad_()
        want = CALLS[name](plain)
        assert getattr(gx, half).equal(torch.autograd.grad(want, plain, getattr(gs, half))[0])
        assert which == "gs" or getattr(spikes, half).equal(want)


def test_backward_under_vmap(name):
    """Many gradients at once, as torch.autograd.functional.jacobian(vectorize=True) asks for."""
    x, gs = X.clone().requires_grad_(), torch.randn(3, *X.shape)
    spikes = CALLS[name](x)
    (found,) = torch.autograd.grad(spikes, x, gs, is_grads_batched=True, retain_graph=True)
    want = [torch.autograd.grad(spikes, x, g, retain_graph=True)[0] for g in gs]
    assert found.equal(torch.stack(want))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_has_the_operators(name):
    """And so it is right for other sizes than those it was made with."""
    other = torch.randn(24, 5, 3, 4) * 2
    for x in (X, X.clone().requires_grad_()):
        traced = torch.jit.trace(CALLS[name], (x,), check_trace=False)
        assert OPERATORS[name][0]._schema.name in str(traced.graph)
        assert traced(other).equal(CALLS[name](other))
    graph = make_fx(CALLS[name], pre_dispatch=True)(X).graph
    assert OPERATORS[name][0] in {node.target for node in graph.nodes}


def test_tensors_that_are_not_what_their_memory_has(name):
    negative = torch._neg_view(X)
    assert not eager.unwatched((negative,))
    assert equal(outcome(name, negative), outcome(name, -X))
    x = X.clone().requires_grad_()
    assert not torch.autograd.grad(CALLS[name](x), x, torch._efficientzerotensor(X.shape))[0].any()


def test_another_default_device(name):
    want = outcome(name, X)
    with torch.device("meta"):
        x = X.detach().requires_grad_()
        spikes = CALLS[name](x)
        assert equal((spikes, *torch.autograd.grad(spikes.cos().sum(), x)), want)


def test_hooks_may_change_any_strides(name):
    """Of all that is kept, the state and statistics among it."""

    def spread(t):
        return torch.full((*t.shape, 2), 77, dtype=t.dtype)[..., 0].copy_(t)

    want = outcome(name, X)
    with torch.autograd.graph.saved_tensors_hooks(spread, lambda t: t):
        assert equal(outcome(name, X), want)


def test_nobody_watching_nothing_is_dispatched(name, monkeypatch):
    """Which is the point of it."""
    want = outcome(name, X)

    def refuse(*args):
        raise AssertionError("dispatched")

    for operator in OPERATORS[name]:
        monkeypatch.setattr(type(operator), "__call__", refuse)
    assert equal(outcome(name, X), want)


def test_tensors_without_memory(name, monkeypatch):
    """Nothing runs."""
    for module in (ops, batch_norm):
        monkeypatch.setattr(module, "fill_forward", None)
        monkeypatch.setattr(module, "fill_backward", None)
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
    want = CALLS[name](X)
    with torch.inference_mode():
        assert CALLS[name](X).equal(want)
    assert CALLS[name](X).grad_fn is None
