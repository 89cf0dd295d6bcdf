"""The operators of batch norm and LIF as one, which keep y alone.

With the statistics of ops/channels.py,

    scale = inverse * weight,  shift = bias - mean * scale,  x = scale * y + shift,  and LIF of x

in the kernels of lif_forward. Backward needs two sums over a channel, of dL/dx and of dL/dx * (y - mean), before it can
write dL/dy. On a GPU the LIF backward runs twice, once for the sums alone, which writes nothing, once for dL/dy: 20
bytes a neuron-step in float32. A CPU, bound by arithmetic too, writes dL/dx with the sums and makes dL/dy in its place:
24 bytes, the same bits; or 12, where channels lie apart in memory and it can finish one while that is in its caches.
"""

from math import prod

import torch

from . import (
    cached_layout,
    channels,
    empty_outputs,
    empty_totals,
    fill_backward,
    fill_forward,
    library,
    reduce,
    refuse_second,
)
from .call import channel_stride, like_steps, matrix
from .eager import below_autograd, with_gradient
from .state import Layout

COMPILED = ("cpu", "cuda")
CACHE = 16 << 20  # bytes that stay in a CPU's caches while it works on one channel
FEWEST = 512  # neurons of a channel side by side that are worth it; 32 is where csrc/cpu_channels.cpp sums as it does
library.define(
    "batch_norm_lif_forward(Tensor y, Tensor? v0, Tensor? decay, Tensor? gain, Tensor? threshold, Tensor? weight,"
    " Tensor? bias, Tensor mean, Tensor inverse, float[] values, int[] options, int keep, bool emit, ScalarType dtype,"
    " str backend, bool own, Tensor? count, str group) -> (Tensor spikes, Tensor v, Tensor state, Tensor bits)",
    tags=channels.TAGS,
)
library.define(
    "batch_norm_lif_backward(Tensor? gs, Tensor? gv, Tensor y, Tensor? v0, Tensor? decay, Tensor? gain,"
    " Tensor? threshold, Tensor? weight, Tensor? bias, Tensor mean, Tensor inverse, Tensor state, Tensor? bits,"
    " float[] values, int[] options, int keep, bool[] needs, str backend, bool own, Tensor? count, str"
    " group)"
    " -> (Tensor gy, Tensor gv0, Tensor gdecay, Tensor ggain, Tensor gthreshold, Tensor gweight, Tensor gbias)",
    tags=channels.TAGS,
)


def layout(y, options, keep):
    return cached_layout(tuple(y.shape), tuple(options[-2:]), keep, y.dtype, True)


def allocate_forward(
    y, v0, decay, gain, threshold, weight, bias, mean, inverse, values, options, keep, emit, dtype, backend, *_
):
    """Empty (spikes, v, state, bits) for y [T, B, C, ...] with dense steps."""
    return empty_outputs(y, dtype, emit, Layout(y.shape, options[-2:], keep, y.dtype, True))


def forward(
    y, v0, decay, gain, threshold, weight, bias, mean, inverse, values, options, keep, emit, dtype, backend, *_
):
    lay = layout(y, options, keep)
    outputs = empty_outputs(y, dtype, emit, lay)
    scale_shift = channels.affine(weight, bias, mean, inverse, backend in COMPILED)
    fill_forward(lay, y, v0, (decay, gain, threshold), scale_shift, values, options, emit, backend, outputs)
    return outputs


def allocate_backward(
    gs, gv, y, v0, decay, gain, threshold, weight, bias, mean, inverse, state, bits, values, options, keep, needs, *_
):
    """Empty (gy, gv0, gdecay, ggain, gthreshold, gweight, gbias), each [0] where not needed."""
    gy = y.new_empty_strided(y.shape, (prod(y.shape[1:]), *y.stride()[1:])) if needs[0] else y.new_empty(0)
    totals = empty_totals(y, y.shape, y.stride(), y.dtype, needs[1:5])
    return gy, *totals, *(torch.empty_like(mean) if need else mean.new_empty(0) for need in needs[5:])


def backward(
    gs, gv, y, v0, decay, gain, threshold, weight, bias, mean, inverse, state, bits, values, options, keep, needs,
    backend, own, count, group,
):  # fmt: skip
    size, stride = tuple(y.shape), tuple(y.stride())
    gy, *totals, gweight, gbias = allocate_backward(  # the last two, if needed, come with the sums
        gs, gv, y, v0, decay, gain, threshold, weight, bias, mean, inverse, state, bits, values, options, keep,
        (*needs[:5], False, False),
    )  # fmt: skip
    compiled = backend in COMPILED
    mean, inverse = mean.contiguous(), inverse.contiguous()  # hooks may have changed their strides
    scale, shift = channels.affine(weight, bias, mean, inverse, compiled)
    wants_sums = needs[5] or needs[6] or (needs[0] and own)
    in_place = wants_sums and backend == "cpu" and y.dtype.itemsize >= 4  # no rounding of dL/dx in between
    each = float(max(y.numel() // max(size[2], 1), 1))  # values a channel

    def run(asked, slope=None, offset=None, at_once=()):
        """The kernel's outputs that are asked for: gy, the totals, and, at once, the sums by neuron."""
        through = (mean, slope, offset, *at_once)
        inputs = gs, gv, y, v0, (decay, gain, threshold), (scale, shift), through, state, bits
        outputs = (gy, *totals, *by_neuron)
        fill_backward(layout(y, options, keep), inputs, size, stride, values, options, asked, backend, outputs)

    by_neuron = empty_totals(y, size, stride, y.dtype, (wants_sums, wants_sums))
    asked = [needs[0] and (in_place or not wants_sums), *needs[1:5], wants_sums, wants_sums]
    finished = in_place and needs[0] and own and not group and channels_stay_in_cache(y)
    if finished:
        sums = torch.zeros((1, 2, size[2]), dtype=torch.float64, device=y.device)
        run(asked, at_once=(sums[0], inverse, each))
    else:
        run(asked)
        if not wants_sums:
            return gy, *totals, gweight, gbias
        sums = channels.sums_of_neurons(by_neuron, size, stride)
    of_weight, of_bias, slope, offset = channels.gradients(sums, each, inverse, scale, compiled)
    outputs = gy, *totals, of_weight if needs[5] else gweight, of_bias if needs[6] else gbias
    if finished or not needs[0]:
        return outputs
    if group:
        everywhere = all_reduce(sums.sum(0), group) / count
        slope, offset = channels.slope_and_offset(*everywhere, inverse, scale)
    if not in_place or not y.numel():
        run([True, *(False,) * 6], *((slope, offset) if own else ()))
    elif own:
        inner = channel_stride(size, stride)
        torch.ops.fastlif.native_finish(matrix(gy), matrix(y), scale, mean, slope, offset, inner)
    else:
        gy.mul_(scale.view(-1, *(1,) * (y.dim() - 3)))
    return outputs


def channels_stay_in_cache(y: torch.Tensor) -> bool:
    """Whether a CPU gains by working on one channel of y [T, B, C, ...] after the other, and can."""
    side_by_side = channel_stride(y.shape, y.stride())
    values = y.numel() // max(y.shape[2], 1)
    runs = side_by_side >= FEWEST and side_by_side % 8 == 0  # a byte of bits is of one channel
    return runs and y.shape[2] > 1 and 0 < 3 * values * y.itemsize <= CACHE


FORWARD = torch.ops.fastlif.batch_norm_lif_forward.default
BACKWARD = torch.ops.fastlif.batch_norm_lif_backward.default
library.impl("batch_norm_lif_forward", forward, "CompositeExplicitAutograd")
library.impl("batch_norm_lif_backward", backward, "CompositeExplicitAutograd")
torch.library.register_fake("fastlif::batch_norm_lif_forward", allocate_forward, lib=library)
torch.library.register_fake("fastlif::batch_norm_lif_backward", allocate_backward, lib=library)


def setup_context(ctx, inputs, output):
    y, v0, decay, gain, threshold, weight, bias, mean, inverse, values, options, keep, emit, _, backend = inputs[:15]
    own, count, group = inputs[15:]
    _, _, state, bits = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        y, v0, decay, gain, threshold, weight, bias, mean, inverse, count, state, bits if emit else None
    )
    ctx.call = values, options, keep
    ctx.like = tuple(y.shape), tuple(y.stride())
    ctx.backend, ctx.own, ctx.group = backend, own, group


def gradient(ctx, gs, gv, *_):
    """Of y, v0, decay, gain, threshold, weight and bias. Unless `own`, mean and inverse are constants."""
    if gs is None and gv is None:
        return (None,) * 18
    y, v0, decay, gain, threshold, weight, bias, mean, inverse, count, state, bits = ctx.saved_tensors
    y = like_steps(y, *ctx.like)  # hooks may have changed its strides
    needs = list(ctx.needs_input_grad[:7])
    operator = BACKWARD if torch.is_grad_enabled() else backward_below_autograd
    gy, gv0, *totals, gweight, gbias = operator(
        gs, gv, y, v0, decay, gain, threshold, weight, bias, mean, inverse, state, bits, *ctx.call, needs, ctx.backend,
        ctx.own, count, ctx.group,
    )  # fmt: skip
    params = zip(totals, (decay, gain, threshold), needs[2:5], strict=True)
    grads = gy, gv0, *(reduce(g, p) if need else None for g, p, need in params), gweight, gbias
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), *(None,) * 11


def all_reduce(sums: torch.Tensor, group: str) -> torch.Tensor:
    """The sum over the ranks of the process group of that name; "" for none."""
    if not group:
        return sums
    from torch.distributed import _functional_collectives as collectives

    return collectives.wait_tensor(collectives.all_reduce(sums, "sum", group))


torch.library.register_autograd("fastlif::batch_norm_lif_forward", gradient, setup_context=setup_context, lib=library)
torch.library.register_autograd("fastlif::batch_norm_lif_backward", refuse_second, lib=library)
backward_below_autograd = below_autograd(BACKWARD, backward, 13)
batch_norm_lif = with_gradient("BatchNormLIF", FORWARD, below_autograd(FORWARD, forward, 9), setup_context, gradient)
