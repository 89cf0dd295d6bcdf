"""The operators fastlif::lif_forward and fastlif::lif_backward: schema, fake kernel and gradient, for all backends.

An operator allocates its outputs (which is all that its fake kernel does) and has a backend fill them. What is kept for
backward is the third output, `state`, which `fastlif.lif` drops; the fourth, `bits`, is the spikes again, one bit each,
for whoever keeps them.
"""

import functools

import torch

from ..neuron import RESETS
from .backends import BACKENDS
from .call import BackwardCall, ForwardCall
from .eager import below_autograd, with_gradient
from .state import Keep, Layout, membrane_dtype

cached_layout = functools.lru_cache(maxsize=1024)(Layout)  # for real calls: a fake one's sizes are symbols
DELAYED = RESETS.index("delayed")
NONE = (None, None, None)
library = torch.library.Library("fastlif", "FRAGMENT")
library.define(
    "lif_forward(Tensor x, Tensor? v0, Tensor? decay, Tensor? gain, Tensor? threshold, float[] values, int[] options,"
    " int keep, bool emit, ScalarType dtype, str backend) -> (Tensor spikes, Tensor v, Tensor state, Tensor bits)",
    tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag),
)
library.define(
    "lif_backward(Tensor? gs, Tensor? gv, Tensor? x, Tensor? v0, Tensor? decay, Tensor? gain, Tensor? threshold,"
    " Tensor state, Tensor? bits, SymInt[] size, SymInt[] stride, ScalarType dtype, float[] values, int[] options,"
    " int keep, bool[] needs, str backend) -> (Tensor gx, Tensor gv0, Tensor gdecay, Tensor ggain, Tensor gthreshold)",
    tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag),
)


def allocate_forward(x, v0, decay, gain, threshold, values, options, keep, emit, dtype, backend):
    """Empty (spikes, v, state, bits) for x [T, ...] with dense steps."""
    return empty_outputs(x, dtype, emit, Layout(x.shape, options[-2:], keep, x.dtype))


def empty_outputs(x, dtype, emit, lay):
    stride = x.stride()[1:]
    spikes = x.new_empty_strided(x.shape, (lay.neurons, *stride), dtype=dtype)
    v = x.new_empty_strided(x.shape[1:], stride, dtype=lay.compute)
    state = x.new_empty(lay.nbytes, dtype=torch.uint8)
    return spikes, v, state, x.new_empty((x.shape[0], lay.plane) if emit else (0, 0), dtype=torch.uint8)


def forward(x, v0, decay, gain, threshold, values, options, keep, emit, dtype, backend):
    lay = cached_layout(tuple(x.shape), tuple(options[-2:]), keep, x.dtype)
    outputs = empty_outputs(x, dtype, emit, lay)
    params = (decay, gain, threshold)
    fill_forward(lay, x, v0, params, NONE[:2], values, options, emit, backend, outputs)
    return outputs


def fill_forward(lay, x, v0, params, affine, values, options, emit, backend, outputs):
    """Have `backend` write the outputs; `affine` is batch norm's (scale, shift), [C] each, or two None."""
    if lay.neurons:
        own = outputs if emit else (*outputs[:3], None)
        BACKENDS[backend].forward(ForwardCall(lay, x, v0, params, affine, values, options, own))


def allocate_backward(
    gs, gv, x, v0, decay, gain, threshold, state, bits, size, stride, dtype, values, options, keep, needs, backend
):
    """Empty (gx, gv0, gdecay, ggain, gthreshold); the last four, one number a neuron, are [0] where not asked for."""
    return state.new_empty_strided(size, stride, dtype=dtype), *empty_totals(state, size, stride, dtype, needs)


def empty_totals(state, size, stride, dtype, needs):
    compute = membrane_dtype(dtype)
    return [
        state.new_empty_strided(size[1:], stride[1:], dtype=compute) if need else state.new_empty(0, dtype=compute)
        for need in needs
    ]


def backward(
    gs, gv, x, v0, decay, gain, threshold, state, bits, size, stride, dtype, values, options, keep, needs, backend
):
    outputs = allocate_backward(
        gs, gv, x, v0, decay, gain, threshold, state, bits, size, stride, dtype, values, options, keep, needs, backend
    )
    lay = cached_layout(tuple(size), tuple(options[-2:]), keep, dtype)
    inputs = gs, gv, x, v0, (decay, gain, threshold), NONE[:2], NONE, state, bits
    fill_backward(
        lay, inputs, size, stride, values, options, (True, *needs, False, False), backend, (*outputs, *NONE[:2])
    )
    return outputs


def fill_backward(lay, inputs, size, stride, values, options, needs, backend, outputs):
    """Have `backend` write those outputs that are needed."""
    if lay.neurons:
        asked = [g if need else None for g, need in zip(outputs, needs, strict=True)]
        BACKENDS[backend].backward(BackwardCall(lay, *inputs, size, stride, values, options, asked))


LIF_FORWARD, LIF_BACKWARD = torch.ops.fastlif.lif_forward.default, torch.ops.fastlif.lif_backward.default
library.impl("lif_forward", forward, "CompositeExplicitAutograd")  # any device: the reference runs anywhere
library.impl("lif_backward", backward, "CompositeExplicitAutograd")
torch.library.register_fake("fastlif::lif_forward", allocate_forward, lib=library)
torch.library.register_fake("fastlif::lif_backward", allocate_backward, lib=library)


def setup_context(ctx, inputs, output):
    x, v0, decay, gain, threshold, values, options, keep, emit, _, backend = inputs
    spikes, _, state, bits = output
    ctx.set_materialize_grads(False)
    # x if backward recomputes from it: whole, or (truncation) the state has a copy of some steps
    saved_x = x if keep == Keep.INPUT and options[-2] == options[-1] else None
    # what was fired before step 0 is for the gradients of v0 and threshold alone
    reads_v0 = keep == Keep.INPUT or (options[0] == DELAYED and (ctx.needs_input_grad[1] or ctx.needs_input_grad[4]))
    saved_bits = bits if emit and keep == Keep.INPUT else None
    ctx.save_for_backward(saved_x, v0 if reads_v0 else None, decay, gain, threshold, state, saved_bits)
    ctx.call = values, options, keep, backend
    ctx.like = tuple(spikes.shape), tuple(spikes.stride()), x.dtype


def gradient(ctx, gs, gv, *_):
    values, options, keep, backend = ctx.call
    size, stride, dtype = ctx.like
    x, v0, decay, gain, threshold, state, bits = ctx.saved_tensors
    if gs is None and gv is None:
        return (None,) * 11
    needs = list(ctx.needs_input_grad[1:5])
    lif_backward = LIF_BACKWARD if torch.is_grad_enabled() else lif_backward_below_autograd
    gx, gv0, *totals = lif_backward(
        gs, gv, x, v0, decay, gain, threshold, state, bits, size, stride, dtype, values, options, keep, needs, backend
    )
    params = (decay, gain, threshold)
    totals = [reduce(g, p) if need else None for g, p, need in zip(totals, params, needs[1:], strict=True)]
    return gx if ctx.needs_input_grad[0] else None, gv0 if needs[0] else None, *totals, *(None,) * 6


def reduce(total: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """A gradient for each neuron, summed to the parameter's shape in float64: the same every time, no atomics."""
    return total.double().sum_to_size(p.shape).to(p.dtype)


def refuse_second(ctx, *grads):
    raise RuntimeError("fastlif.lif is differentiable once: double backward through a surrogate gradient is undefined")


torch.library.register_autograd("fastlif::lif_forward", gradient, setup_context=setup_context, lib=library)
torch.library.register_autograd("fastlif::lif_backward", refuse_second, lib=library)
lif_backward_below_autograd = below_autograd(LIF_BACKWARD, backward, 9)
lif = with_gradient("LIF", LIF_FORWARD, below_autograd(LIF_FORWARD, forward, 5), setup_context, gradient)
