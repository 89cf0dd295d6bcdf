"""The operators fastlif::lif_forward and fastlif::lif_backward: schema, fake kernel and gradient, for all backends.

An operator allocates its outputs (which is all that its fake kernel does) and has a backend fill them. What is kept for
backward is the last output, `state`, which `fastlif.lif` drops.
"""

import functools
from contextlib import nullcontext

import torch

from ..neuron import RESETS
from .backends import BACKENDS
from .call import BackwardCall, ForwardCall
from .state import Keep, Layout, membrane_dtype

cached_layout = functools.lru_cache(maxsize=1024)(Layout)  # for real calls: a fake one's sizes are symbols
DELAYED = RESETS.index("delayed")
library = torch.library.Library("fastlif", "FRAGMENT")
library.define(
    "lif_forward(Tensor x, Tensor? v0, Tensor? decay, Tensor? gain, Tensor? threshold, float[] values, int[] options,"
    " int keep, ScalarType dtype, str backend) -> (Tensor spikes, Tensor v, Tensor state)",
    tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag),
)
library.define(
    "lif_backward(Tensor? gs, Tensor? gv, Tensor? x, Tensor? v0, Tensor? decay, Tensor? gain, Tensor? threshold,"
    " Tensor state, SymInt[] size, SymInt[] stride, ScalarType dtype, float[] values, int[] options, int keep,"
    " bool[] needs, str backend) -> (Tensor gx, Tensor gv0, Tensor gdecay, Tensor ggain, Tensor gthreshold)",
    tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag),
)


def allocate_forward(x, v0, decay, gain, threshold, values, options, keep, dtype, backend):
    """Empty (spikes, v, state) for x [T, ...] with dense steps."""
    return _allocate_forward(x, dtype, Layout(x.shape, options[-2:], keep, x.dtype))


def _allocate_forward(x, dtype, lay):
    stride = x.stride()[1:]
    spikes = x.new_empty_strided(x.shape, (lay.neurons, *stride), dtype=dtype)
    v = x.new_empty_strided(x.shape[1:], stride, dtype=lay.compute)
    return spikes, v, x.new_empty(lay.nbytes, dtype=torch.uint8)


def forward(x, v0, decay, gain, threshold, values, options, keep, dtype, backend):
    lay = cached_layout(tuple(x.shape), tuple(options[-2:]), keep, x.dtype)
    outputs = _allocate_forward(x, dtype, lay)
    if lay.neurons:
        BACKENDS[backend].forward(ForwardCall(lay, x, v0, (decay, gain, threshold), values, options, outputs))
    return outputs


def allocate_backward(
    gs, gv, x, v0, decay, gain, threshold, state, size, stride, dtype, values, options, keep, needs, backend
):
    """Empty (gx, gv0, gdecay, ggain, gthreshold); the last four, one number a neuron, are [0] where not asked for."""
    compute = membrane_dtype(dtype)
    gx = state.new_empty_strided(size, stride, dtype=dtype)
    totals = [
        state.new_empty_strided(size[1:], stride[1:], dtype=compute) if need else state.new_empty(0, dtype=compute)
        for need in needs
    ]
    return gx, *totals


def backward(gs, gv, x, v0, decay, gain, threshold, state, size, stride, dtype, values, options, keep, needs, backend):
    outputs = allocate_backward(
        gs, gv, x, v0, decay, gain, threshold, state, size, stride, dtype, values, options, keep, needs, backend
    )
    lay = cached_layout(tuple(size), tuple(options[-2:]), keep, dtype)
    if lay.neurons:
        asked = outputs[0], *(g if need else None for g, need in zip(outputs[1:], needs, strict=True))
        params = (decay, gain, threshold)
        call = BackwardCall(lay, gs, gv, x, v0, params, state, size, stride, values, options, asked)
        BACKENDS[backend].backward(call)
    return outputs


library.impl("lif_forward", forward, "CompositeExplicitAutograd")  # any device: the reference runs anywhere
library.impl("lif_backward", backward, "CompositeExplicitAutograd")
torch.library.register_fake("fastlif::lif_forward", allocate_forward, lib=library)
torch.library.register_fake("fastlif::lif_backward", allocate_backward, lib=library)


def setup_context(ctx, inputs, output):
    x, v0, decay, gain, threshold, values, options, keep, _, backend = inputs
    spikes, _, state = output
    ctx.set_materialize_grads(False)
    saved_x = (
        x if keep == Keep.INPUT and options[-2] == options[-1] else None
    )  # else the state has a copy of some steps
    reads_v0 = keep == Keep.INPUT or options[0] == DELAYED
    ctx.save_for_backward(saved_x, v0 if reads_v0 else None, decay, gain, threshold, state)
    ctx.call = values, options, keep, backend
    ctx.like = tuple(spikes.shape), tuple(spikes.stride()), x.dtype


def gradient(ctx, gs, gv, _):
    values, options, keep, backend = ctx.call
    size, stride, dtype = ctx.like
    x, v0, decay, gain, threshold, state = ctx.saved_tensors
    if gs is None and gv is None:
        return (None,) * 10
    needs = list(ctx.needs_input_grad[1:5])
    below_autograd = nullcontext() if torch.is_grad_enabled() else torch._C._AutoDispatchBelowAutograd()
    with below_autograd:  # 8 us less, where no second derivative is to be refused
        gx, gv0, *totals = torch.ops.fastlif.lif_backward(
            gs, gv, x, v0, decay, gain, threshold, state, size, stride, dtype, values, options, keep, needs, backend
        )
    params = (decay, gain, threshold)
    totals = [reduce(g, p) if need else None for g, p, need in zip(totals, params, needs[1:], strict=True)]
    return gx if ctx.needs_input_grad[0] else None, gv0 if needs[0] else None, *totals, None, None, None, None, None


def reduce(total: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """A gradient for each neuron, summed to the parameter's shape in float64: the same every time, no atomics."""
    return total.double().sum_to_size(p.shape).to(p.dtype)


def refuse_second(ctx, *grads):
    raise RuntimeError("fastlif.lif is differentiable once: double backward through a surrogate gradient is undefined")


torch.library.register_autograd("fastlif::lif_forward", gradient, setup_context=setup_context, lib=library)
torch.library.register_autograd("fastlif::lif_backward", refuse_second, lib=library)
