"""Operators in eager mode, past the layers of torch.library that serve graphs and onlookers: 60 us a call less."""

import torch

PLAIN = {torch.Tensor, torch.nn.Parameter, type(None)}
ALWAYS = sum(
    torch._C.DispatchKeySet(key).raw_repr()
    for key in (torch._C.DispatchKey.BackendSelect, torch._C.DispatchKey.ADInplaceOrView)
)  # of the dispatcher, on every thread; traces, transforms (vmap) and modes add keys of theirs


def below_autograd(operator, kernel, tensors: int):
    """A function that calls `operator` without its autograd layer; where nobody watches, its Python `kernel` itself.

    The first `tensors` inputs are tensors or None.
    """

    def call(*inputs):
        if unwatched(inputs[:tensors]):
            return kernel(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    return call


def unwatched(tensors) -> bool:
    """Whether a call with these tensors is its kernel's business alone: no trace, transform, dispatch mode or profiler,
    no subclass, and tensors whose memory has what they are."""
    return (
        not torch.compiler.is_compiling()
        and PLAIN.issuperset(map(type, tensors))
        and torch._C._dispatch_tls_local_include_set().raw_repr() | ALWAYS == ALWAYS
        and not torch.autograd._profiler_enabled()
        and not any(t.is_meta or t.is_neg() for t in tensors if t is not None)
    )


def with_gradient(name: str, operator, below, setup_context, gradient):
    """call(needs_grad, *inputs): `operator` with its gradient, which autograd's graph shows as `name`.

    `below` is its `below_autograd`. What is traced has the operator itself, whose gradient is registered too.
    """

    def forward(ctx, *inputs):
        outputs = below(*inputs)
        setup_context(ctx, inputs, outputs)
        return outputs

    static = {"forward": staticmethod(forward), "backward": staticmethod(gradient)}
    function = type(name, (torch.autograd.Function,), static)

    def call(needs_grad: bool, *inputs):
        if torch.compiler.is_compiling() or torch._C._is_tracing():
            return operator(*inputs)
        return (function.apply if needs_grad else below)(*inputs)

    return call
