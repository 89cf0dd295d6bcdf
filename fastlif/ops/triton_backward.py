"""The backward Triton kernel: one pass over memory, a block of neurons per program, all that is carried in registers.

Steps are taken STEPS at a time, their loads GROUP at a time. T is a plain number: no T compiles anew.
"""

import triton
import triton.language as tl

from .triton_loads import constant, load_steps, membrane, per_neuron
from .triton_neuron import (
    after_reset,
    charge,
    decoded,
    fires,
    forgotten,
    normalized,
    surrogate,
    taken,
    through_norm,
    unpacked,
)


@triton.jit
def load_planes(bits, byte, plane, start, stop, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """The spikes of COUNT steps as forward had them, or None where it kept no bits."""
    planes = None
    if bits is not None:
        planes = load_steps(bits, byte, byte < plane, 0, start, stop, plane, COUNT, BLOCK // 8)
    return planes


@triton.jit
def fired(h, planes, i: tl.constexpr, threshold, EQUAL: tl.constexpr, BLOCK: tl.constexpr, OPAQUE: tl.constexpr):
    """Whether step i fired: by its plane, in case that x was computed anew, or else by h."""
    if planes is None:
        s = fires(h, threshold, EQUAL)
    else:
        s = unpacked(forgotten(planes[i].to(tl.int32), OPAQUE), BLOCK)
    return s


@triton.jit(do_not_specialize=["T", "k1", "k2", "cut", "decay_inner", "decay_length", "gain_inner", "gain_length",
                               "threshold_inner", "threshold_length", "channel_inner", "channels"])  # fmt: skip
def lif_bwd_kernel(
    gs, gv, x, v0, borders, rows,  # [T, N] or None, [N] or None, [T or rows, N] or None, [N] or None, state
    gx, gv0, gdecay, ggain, gthreshold, gshift, gscale,  # [T, N], the others [N], each or None
    bits, decay, gain, threshold, scale_of_x, shift_of_x, mean, slope, offset,  # [T, plane], any, [channels]; or None
    decay_inner, decay_length, gain_inner, gain_length, threshold_inner, threshold_length, channel_inner, channels,
    decay_number: tl.float64, gain_number: tl.float64, bias: tl.float64, threshold_number: tl.float64,
    amount: tl.float64, v_reset: tl.float64, scale: tl.float64, height: tl.float64,
    T, N, x_stride, gs_stride, gx_stride, k1, k2, cut,
    RESET: tl.constexpr, SURROGATE: tl.constexpr, TIED: tl.constexpr, DETACH: tl.constexpr, EQUAL: tl.constexpr,
    SCALE: tl.constexpr, ONES: tl.constexpr, KEEP: tl.constexpr, WHOLE: tl.constexpr, CUT: tl.constexpr,
    CHUNK: tl.constexpr,
    DECAY_SCALAR: tl.constexpr, GAIN_SCALAR: tl.constexpr, THRESHOLD_SCALAR: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, GROUP: tl.constexpr,
    HOLDS_X: tl.constexpr, OPAQUE: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    """Fill gx and the gradients that are not None, walking windows of k1 steps, and STEPS steps in each, backwards.

    With KEEP == "input" STEPS values of h are recomputed and held in registers: from the membrane stored every CHUNK
    steps, going forward to `start` first where that lies later. x, read twice then, comes from the cache the second
    time; and once more where a gradient needs it, unless batch norm's is held beside h (HOLDS_X). Batch norm always
    comes with KEEP == "input". `carried`, `g` and `reset_g` are those of ops/reference.py.
    """
    CT: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    byte = tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    plane = (tl.cast(N, tl.int64) + 7) // 8
    x_stride, gs_stride, gx_stride = (
        tl.cast(x_stride, tl.int64), tl.cast(gs_stride, tl.int64), tl.cast(gx_stride, tl.int64)
    )  # fmt: skip
    decay_number, bias, v_reset = constant(decay_number, 0, CT), constant(bias, 0, CT), constant(v_reset, 0, CT)
    gain_number, threshold_number = constant(gain_number, ONES & 1, CT), constant(threshold_number, ONES & 2, CT)
    amount, scale = constant(amount, ONES & 4, CT), constant(scale, ONES & 8, CT)
    height = constant(height, ONES & 16, CT)
    decay = per_neuron(decay, decay_number, n, inside, decay_inner, decay_length, DECAY_SCALAR, WIDE)
    gain = per_neuron(gain, gain_number, n, inside, gain_inner, gain_length, GAIN_SCALAR, WIDE)
    threshold = per_neuron(
        threshold, threshold_number, n, inside, threshold_inner, threshold_length, THRESHOLD_SCALAR, WIDE
    )
    scale_of_x = per_neuron(scale_of_x, None, n, inside, channel_inner, channels, False, WIDE)
    shift_of_x = per_neuron(shift_of_x, None, n, inside, channel_inner, channels, False, WIDE)
    mean = per_neuron(mean, None, n, inside, channel_inner, channels, False, WIDE)
    slope = per_neuron(slope, None, n, inside, channel_inner, channels, False, WIDE)
    offset = per_neuron(offset, None, n, inside, channel_inner, channels, False, WIDE)
    if TIED:
        amount = threshold
    zero = tl.zeros([BLOCK], CT)
    carried, decay_total, gain_total, threshold_total, shift_total, scale_total = zero, zero, zero, zero, zero, zero
    if gv is not None:
        carried = tl.load(gv + n, mask=inside, other=0.0)
    windows = tl.cdiv(T, k1)
    for windows_after in range(0, windows):
        window = windows - 1 - windows_after
        begin = window * k1
        stop = tl.minimum(begin + k1, T)
        first = tl.maximum(begin, stop - k2)
        row = window * k2 - first  # of step t: row + t
        x_row = row if scale_of_x is None else 0  # batch norm's x is the tensor itself, never copies of some steps
        border = window * tl.cdiv(k2, CHUNK) - WHOLE
        segments = tl.cdiv(stop - first, STEPS)
        for segments_after in range(0, segments):
            segment = segments - 1 - segments_after
            start = first + segment * STEPS
            if gs is not None:
                ahead = load_steps(gs, n, inside, 0, start + STEPS - GROUP, stop, gs_stride, GROUP, BLOCK)
            if KEEP == "input":
                chunk = segment // (CHUNK // STEPS)
                before = membrane(borders, v0, border + chunk, N, n, inside, BLOCK, CT)
                s = fires(before, threshold, EQUAL)
                for earlier in range(first + chunk * CHUNK, start, STEPS):
                    planes = load_planes(bits, byte, plane, earlier, stop, STEPS, BLOCK)
                    xs = load_steps(x, n, inside, x_row, earlier, stop, x_stride, STEPS, BLOCK)
                    for i in tl.static_range(STEPS):
                        current = normalized(xs[i], scale_of_x, shift_of_x, CT)
                        h = charge(before, s, current, decay, gain, bias, amount, RESET)
                        s = fired(h, planes, i, threshold, EQUAL, BLOCK, False)
                        before = after_reset(h, s, amount, v_reset, RESET)
                planes = load_planes(bits, byte, plane, start, stop, STEPS, BLOCK)
                xs = load_steps(x, n, inside, x_row, start, stop, x_stride, STEPS, BLOCK)
                hs, v = (), before
                for i in tl.static_range(STEPS):
                    current = normalized(xs[i], scale_of_x, shift_of_x, CT)
                    h = charge(v, s, current, decay, gain, bias, amount, RESET)
                    s = fired(h, planes, i, threshold, EQUAL, BLOCK, False)
                    v = after_reset(h, s, amount, v_reset, RESET)
                    hs = hs + (h,)
            for i in tl.static_range(STEPS - 1, -1, -1):
                t = start + i
                if i % GROUP == GROUP - 1:
                    group = t - GROUP + 1
                    if gs is not None:
                        gss = ahead
                        if i >= GROUP:
                            ahead = load_steps(gs, n, inside, 0, group - GROUP, stop, gs_stride, GROUP, BLOCK)
                    if KEEP == "spikes":
                        spiked = load_steps(rows, byte, byte < plane, row, group, stop, plane, GROUP, BLOCK // 8)
                    elif KEEP == "bits":
                        spiked = load_steps(rows, byte, byte < plane, row, group, stop, 2 * plane, GROUP, BLOCK // 8)
                        near = load_steps(
                            rows + plane, byte, byte < plane, row, group, stop, 2 * plane, GROUP, BLOCK // 8
                        )
                    elif KEEP == "code":
                        codes = load_steps(rows, n, inside, row, group, stop, tl.cast(N, tl.int64), GROUP, BLOCK)
                if t < stop:
                    if KEEP == "input":
                        h = forgotten(hs[i], OPAQUE)
                        s = fired(h, planes, i, threshold, EQUAL, BLOCK, OPAQUE)
                        sg = surrogate(h - threshold, scale, height, SURROGATE, SCALE, CT)
                    elif KEEP == "code":
                        s, sg, h = decoded(codes[i % GROUP], threshold, scale, height, SURROGATE, CT)
                    elif KEEP == "bits":
                        s = unpacked(spiked[i % GROUP], BLOCK)
                        sg = tl.where(unpacked(near[i % GROUP], BLOCK), height, 0.0)
                    elif KEEP == "spikes":
                        s, sg = unpacked(spiked[i % GROUP], BLOCK), height
                    else:
                        sg = height
                    spike_g = zero
                    if gs is not None:
                        spike_g = gss[i % GROUP].to(CT)
                    direct = spike_g * sg
                    g, reset_g = carried, carried
                    if RESET == "delayed":
                        factor = decay if DETACH else decay - amount * sg
                        g = tl.where(t == T - 1, carried, carried * factor)
                        reset_g = tl.where(t == T - 1, 0.0, carried)
                    if CUT:
                        g = tl.where(((t + 1) % cut == 0) & (t != T - 1), 0.0, g)
                        if RESET != "delayed":
                            reset_g = g
                    if RESET == "soft" and not DETACH:
                        gh = direct + g * (1.0 - amount * sg)
                    elif RESET == "hard" and DETACH:
                        gh = direct + tl.where(s, 0.0, g)
                    elif RESET == "hard":
                        gh = direct + g * (tl.where(s, 0.0, 1.0) + (v_reset - h) * sg)
                    else:
                        gh = direct + g
                    if gthreshold is not None:
                        term = -direct
                        if RESET == "soft" or RESET == "delayed":
                            term = term + reset_g * taken(s, sg, amount, TIED, DETACH, CT)
                        elif RESET == "hard" and not DETACH:
                            term = term - g * ((v_reset - h) * sg)
                        threshold_total = threshold_total + term
                    if gdecay is not None:
                        if i == 0:
                            v = before
                        else:
                            v = forgotten(hs[i - 1], OPAQUE)
                            s = fired(v, planes, i - 1, threshold, EQUAL, BLOCK, OPAQUE)
                            v = after_reset(v, s, amount, v_reset, RESET)
                        decay_total = decay_total + gh * v
                    if HOLDS_X:
                        again = xs[i]
                    elif ggain is not None or gscale is not None or slope is not None:
                        again = tl.load(x + (x_row + t) * x_stride + n, mask=inside, other=0.0)
                    else:
                        again = zero
                    if ggain is not None:
                        gain_total = gain_total + gh * normalized(again, scale_of_x, shift_of_x, CT)
                    current_g = gain * gh
                    if gshift is not None:
                        shift_total = shift_total + current_g
                    if gscale is not None:
                        scale_total = scale_total + current_g * (again.to(CT) - mean)
                    if gx is not None:
                        current_g = through_norm(current_g, again, scale_of_x, mean, slope, offset, CT)
                        tl.store(gx + t * gx_stride + n, current_g.to(gx.dtype.element_ty), mask=inside)
                    carried = gh if RESET == "delayed" else decay * gh
        alone = (window == 0) | (first > begin)  # the step before is v0, or carries no gradient
        if RESET == "delayed":
            earlier = membrane(borders, v0, border if KEEP == "input" else -1, N, n, inside, BLOCK, CT)
            s = fires(earlier, threshold, EQUAL)
            sg = surrogate(earlier - threshold, scale, height, SURROGATE, SCALE, CT)
            if gthreshold is not None:
                term = carried * taken(s, sg, amount, TIED, DETACH, CT)
                threshold_total = tl.where(alone, threshold_total + term, threshold_total)
            carried = tl.where(alone, carried * (decay if DETACH else decay - amount * sg), carried)
        if not WHOLE:
            carried = tl.where(alone, 0.0, carried)
            if gx is not None:
                for t in range(begin, first):
                    again = zero
                    if slope is not None:
                        again = tl.load(x + t * x_stride + n, mask=inside, other=0.0).to(CT)
                    x_g = through_norm(zero, again, scale_of_x, mean, slope, offset, CT)
                    tl.store(gx + t * gx_stride + n, x_g.to(gx.dtype.element_ty), mask=inside)
    if gv0 is not None:
        tl.store(gv0 + n, carried, mask=inside)
    if gdecay is not None:
        tl.store(gdecay + n, decay_total, mask=inside)
    if ggain is not None:
        tl.store(ggain + n, gain_total, mask=inside)
    if gthreshold is not None:
        tl.store(gthreshold + n, threshold_total, mask=inside)
    if gshift is not None:
        tl.store(gshift + n, shift_total, mask=inside)
    if gscale is not None:
        tl.store(gscale + n, scale_total, mask=inside)
