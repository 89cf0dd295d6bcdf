"""The Triton kernels: one pass over memory each way, a block of neurons per program, the membrane in registers.

Steps are taken GROUP (or STEPS) at a time: the loads of a group are issued together, ahead of its arithmetic, and that
keeps the memory busy. T is a plain number: no T compiles anew.
"""

import triton
import triton.language as tl

from .triton_neuron import after_reset, charge, decoded, encoded, fires, forgotten, packed, surrogate, taken, unpacked


@triton.jit
def constant(number, is_one: tl.constexpr, CT: tl.constexpr):
    """A number of the neuron in the membrane's type. What is known to be 1 multiplies nothing in compiled code."""
    return tl.full((), 1.0 if is_one else number, CT)


@triton.jit
def per_neuron(ptr, number, n, inside, inner, length, SCALAR: tl.constexpr, WIDE: tl.constexpr):
    """decay, gain or threshold: `number`, the one element at ptr, or neuron n's, [BLOCK]."""
    if ptr is None:
        value = number
    elif SCALAR:
        value = tl.load(ptr)
    else:
        place = n if WIDE else n.to(tl.int32)
        value = tl.load(ptr + place // inner % length, mask=inside, other=0.0)
    return value


@triton.jit
def within(mask, first, t, stop, SIZE: tl.constexpr):
    """mask, [SIZE], if first <= t < stop, else nothing. As comparisons of blocks, since Triton's interpreter takes no
    scalar for a mask; compiled they are scalar again."""
    step = tl.full([SIZE], t, tl.int32)
    return mask & (step >= first) & (step < stop)


@triton.jit
def load_steps(ptr, place, mask, row, start, stop, stride, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """Steps start ... start+COUNT-1 of a matrix [rows, N] whose row `row + t` is step t; 0 from `stop` on."""
    found = ()
    for i in tl.static_range(COUNT):
        at = (row + start + i) * stride + place
        found = found + (tl.load(ptr + at, mask=within(mask, 0, start + i, stop, SIZE), other=0),)
    return found


@triton.jit
def membrane(borders, v0, index, N, n, inside, BLOCK: tl.constexpr, CT: tl.constexpr):
    """The stored membrane of row `index`, or v0 where that is negative."""
    if index >= 0:
        v = tl.load(borders + tl.cast(index, tl.int64) * N + n, mask=inside, other=0.0)
    elif v0 is not None:
        v = tl.load(v0 + n, mask=inside, other=0.0)
    else:
        v = tl.zeros([BLOCK], CT)
    return v


@triton.jit(do_not_specialize=["T", "k1", "k2", "decay_inner", "decay_length", "gain_inner", "gain_length",
                               "threshold_inner", "threshold_length"])  # fmt: skip
def lif_fwd_kernel(
    x, v0, spikes, v_last, borders, rows,  # [T, N], [N] or None, [T, N], [N], [borders, N], [rows, ...]
    decay, gain, threshold,  # tensors or None
    decay_inner, decay_length, gain_inner, gain_length, threshold_inner, threshold_length,
    decay_number: tl.float64, gain_number: tl.float64, bias: tl.float64, threshold_number: tl.float64,
    amount: tl.float64, v_reset: tl.float64, scale: tl.float64, height: tl.float64,
    T, N, x_stride, spikes_stride, k1, k2,
    RESET: tl.constexpr, TIED: tl.constexpr, EQUAL: tl.constexpr, SPIKING: tl.constexpr, SCALE: tl.constexpr,
    ONES: tl.constexpr, KEEP: tl.constexpr, WHOLE: tl.constexpr, CHUNK: tl.constexpr,
    DECAY_SCALAR: tl.constexpr, GAIN_SCALAR: tl.constexpr, THRESHOLD_SCALAR: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Fill spikes, v_last and what KEEP asks for. WHOLE: every step carries gradient; else the last k2 of every k1."""
    CT: tl.constexpr = v_last.dtype.element_ty
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    byte = tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    plane = (tl.cast(N, tl.int64) + 7) // 8
    x_stride, spikes_stride = tl.cast(x_stride, tl.int64), tl.cast(spikes_stride, tl.int64)
    decay_number, bias, v_reset = constant(decay_number, 0, CT), constant(bias, 0, CT), constant(v_reset, 0, CT)
    gain_number, threshold_number = constant(gain_number, ONES & 1, CT), constant(threshold_number, ONES & 2, CT)
    amount, scale = constant(amount, ONES & 4, CT), constant(scale, ONES & 8, CT)
    decay = per_neuron(decay, decay_number, n, inside, decay_inner, decay_length, DECAY_SCALAR, WIDE)
    gain = per_neuron(gain, gain_number, n, inside, gain_inner, gain_length, GAIN_SCALAR, WIDE)
    threshold = per_neuron(
        threshold, threshold_number, n, inside, threshold_inner, threshold_length, THRESHOLD_SCALAR, WIDE
    )
    if TIED:
        amount = threshold
    v = membrane(borders, v0, -1, N, n, inside, BLOCK, CT)
    for start in range(0, T, GROUP):
        xs = load_steps(x, n, inside, 0, start, T, x_stride, GROUP, BLOCK)
        for i in tl.static_range(GROUP):
            t = start + i
            first, row = 0, t
            if KEEP == "input" and WHOLE and i == 0 and (t > 0) & (t % CHUNK == 0):
                tl.store(borders + tl.cast(t // CHUNK - 1, tl.int64) * N + n, v, mask=inside)
            if KEEP != "nothing" and not WHOLE:
                window = t // k1
                first = tl.maximum(window * k1, tl.minimum(window * k1 + k1, T) - k2)
                row = window * k2 + t - first
                if KEEP == "input" and (t < T) & (t >= first) & ((t - first) % CHUNK == 0):
                    border = window * tl.cdiv(k2, CHUNK) + (t - first) // CHUNK
                    tl.store(borders + tl.cast(border, tl.int64) * N + n, v, mask=inside)
            h = charge(v, xs[i].to(CT), decay, gain, bias, threshold, amount, RESET, EQUAL)
            s = fires(h, threshold, EQUAL)
            v = tl.where(t < T, after_reset(h, s, amount, v_reset, RESET), v)
            out = s.to(CT) if SPIKING else h
            here = within(inside, 0, t, T, BLOCK)
            tl.store(spikes + t * spikes_stride + n, out.to(spikes.dtype.element_ty), mask=here)
            at = tl.cast(row, tl.int64)
            kept = within(inside, first, t, T, BLOCK)
            kept_bits = within(byte < plane, first, t, T, BLOCK // 8)
            if KEEP == "spikes":
                tl.store(rows + at * plane + byte, packed(s & inside, BLOCK), mask=kept_bits)
            elif KEEP == "bits":
                near = tl.abs(h - threshold) < scale
                tl.store(rows + 2 * at * plane + byte, packed(s & inside, BLOCK), mask=kept_bits)
                tl.store(rows + (2 * at + 1) * plane + byte, packed(near & inside, BLOCK), mask=kept_bits)
            elif KEEP == "code":
                tl.store(rows + at * N + n, encoded(h - threshold, s, scale, SCALE, CT), mask=kept)
            elif KEEP == "input" and not WHOLE:
                tl.store(rows + at * N + n, xs[i], mask=kept)
    tl.store(v_last + n, v, mask=inside)


@triton.jit(do_not_specialize=["T", "k1", "k2", "cut", "decay_inner", "decay_length", "gain_inner", "gain_length",
                               "threshold_inner", "threshold_length"])  # fmt: skip
def lif_bwd_kernel(
    gs, gv, x, v0, borders, rows,  # [T, N] or None, [N] or None, [T or rows, N] or None, [N] or None, state
    gx, gv0, gdecay, ggain, gthreshold,  # [T, N], [N] or None
    decay, gain, threshold,  # tensors or None
    decay_inner, decay_length, gain_inner, gain_length, threshold_inner, threshold_length,
    decay_number: tl.float64, gain_number: tl.float64, bias: tl.float64, threshold_number: tl.float64,
    amount: tl.float64, v_reset: tl.float64, scale: tl.float64, height: tl.float64,
    T, N, x_stride, gs_stride, gx_stride, k1, k2, cut,
    RESET: tl.constexpr, SURROGATE: tl.constexpr, TIED: tl.constexpr, DETACH: tl.constexpr, EQUAL: tl.constexpr,
    SCALE: tl.constexpr, ONES: tl.constexpr, KEEP: tl.constexpr, WHOLE: tl.constexpr, CUT: tl.constexpr,
    CHUNK: tl.constexpr,
    DECAY_SCALAR: tl.constexpr, GAIN_SCALAR: tl.constexpr, THRESHOLD_SCALAR: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr, GROUP: tl.constexpr,
    OPAQUE: tl.constexpr,
):  # fmt: skip
    """Fill gx and the gradients that are not None, walking windows of k1 steps, and STEPS steps in each, backwards.

    With KEEP == "input" STEPS values of h are recomputed and held in registers: from the membrane stored every CHUNK
    steps, going forward to `start` first where that lies later. x, read twice then, comes from the cache the second
    time. `carried`, `g` and `reset_g` are those of ops/reference.py.
    """
    CT: tl.constexpr = tl.float64 if gx.dtype.element_ty == tl.float64 else tl.float32
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
    if TIED:
        amount = threshold
    zero = tl.zeros([BLOCK], CT)
    carried, decay_total, gain_total, threshold_total = zero, zero, zero, zero
    if gv is not None:
        carried = tl.load(gv + n, mask=inside, other=0.0)
    windows = tl.cdiv(T, k1)
    for windows_after in range(0, windows):
        window = windows - 1 - windows_after
        begin = window * k1
        stop = tl.minimum(begin + k1, T)
        first = tl.maximum(begin, stop - k2)
        row = window * k2 - first  # of step t: row + t
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
                for earlier in range(first + chunk * CHUNK, start, STEPS):
                    xs = load_steps(x, n, inside, row, earlier, stop, x_stride, STEPS, BLOCK)
                    for i in tl.static_range(STEPS):
                        h = charge(before, xs[i].to(CT), decay, gain, bias, threshold, amount, RESET, EQUAL)
                        before = after_reset(h, fires(h, threshold, EQUAL), amount, v_reset, RESET)
                xs = load_steps(x, n, inside, row, start, stop, x_stride, STEPS, BLOCK)
                hs, v = (), before
                for i in tl.static_range(STEPS):
                    h = charge(v, xs[i].to(CT), decay, gain, bias, threshold, amount, RESET, EQUAL)
                    v = after_reset(h, fires(h, threshold, EQUAL), amount, v_reset, RESET)
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
                        fired = load_steps(rows, byte, byte < plane, row, group, stop, plane, GROUP, BLOCK // 8)
                    elif KEEP == "bits":
                        fired = load_steps(rows, byte, byte < plane, row, group, stop, 2 * plane, GROUP, BLOCK // 8)
                        near = load_steps(
                            rows + plane, byte, byte < plane, row, group, stop, 2 * plane, GROUP, BLOCK // 8
                        )
                    elif KEEP == "code":
                        codes = load_steps(rows, n, inside, row, group, stop, tl.cast(N, tl.int64), GROUP, BLOCK)
                if t < stop:
                    if KEEP == "input":
                        h = forgotten(hs[i], OPAQUE, CT)
                        s = fires(h, threshold, EQUAL)
                        sg = surrogate(h - threshold, scale, height, SURROGATE, SCALE, CT)
                    elif KEEP == "code":
                        s, sg, h = decoded(codes[i % GROUP], threshold, scale, height, SURROGATE, CT)
                    elif KEEP == "bits":
                        s = unpacked(fired[i % GROUP], BLOCK)
                        sg = tl.where(unpacked(near[i % GROUP], BLOCK), height, 0.0)
                    elif KEEP == "spikes":
                        s, sg = unpacked(fired[i % GROUP], BLOCK), height
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
                            v = forgotten(hs[i - 1], OPAQUE, CT)
                            v = after_reset(v, fires(v, threshold, EQUAL), amount, v_reset, RESET)
                        decay_total = decay_total + gh * v
                    if ggain is not None:
                        again = tl.load(x + (row + t) * x_stride + n, mask=inside, other=0.0)
                        gain_total = gain_total + gh * again.to(CT)
                    tl.store(gx + t * gx_stride + n, (gain * gh).to(gx.dtype.element_ty), mask=inside)
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
            for t in range(begin, first):
                tl.store(gx + t * gx_stride + n, tl.zeros([BLOCK], gx.dtype.element_ty), mask=inside)
    if gv0 is not None:
        tl.store(gv0 + n, carried, mask=inside)
    if gdecay is not None:
        tl.store(gdecay + n, decay_total, mask=inside)
    if ggain is not None:
        tl.store(ggain + n, gain_total, mask=inside)
    if gthreshold is not None:
        tl.store(gthreshold + n, threshold_total, mask=inside)
