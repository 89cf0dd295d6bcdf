"""The forward Triton kernel: one pass over memory, a block of neurons per program, the membrane in registers.

Steps are taken GROUP at a time. T is a plain number: no T compiles anew.
"""

import triton
import triton.language as tl

from .triton_loads import constant, load_steps, membrane, per_neuron, within
from .triton_neuron import after_reset, charge, encoded, fires, normalized, packed


@triton.jit(do_not_specialize=["T", "k1", "k2", "decay_inner", "decay_length", "gain_inner", "gain_length",
                               "threshold_inner", "threshold_length", "channel_inner", "channels"])  # fmt: skip
def lif_fwd_kernel(
    x, v0, spikes, v_last, borders, rows,  # [T, N], [N] or None, [T, N], [N], [borders, N], [rows, ...]
    bits, decay, gain, threshold, scale_of_x, shift_of_x,  # [T, plane], any, [channels]; or None
    decay_inner, decay_length, gain_inner, gain_length, threshold_inner, threshold_length, channel_inner, channels,
    decay_number: tl.float64, gain_number: tl.float64, bias: tl.float64, threshold_number: tl.float64,
    amount: tl.float64, v_reset: tl.float64, scale: tl.float64, height: tl.float64,
    T, N, x_stride, spikes_stride, k1, k2,
    RESET: tl.constexpr, TIED: tl.constexpr, EQUAL: tl.constexpr, SPIKING: tl.constexpr, SCALE: tl.constexpr,
    ONES: tl.constexpr, KEEP: tl.constexpr, WHOLE: tl.constexpr, CHUNK: tl.constexpr,
    DECAY_SCALAR: tl.constexpr, GAIN_SCALAR: tl.constexpr, THRESHOLD_SCALAR: tl.constexpr,
    WIDE: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Fill spikes, v_last, bits if given, and what KEEP asks for. WHOLE: every step carries gradient; else the last k2
    of every k1."""
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
    scale_of_x = per_neuron(scale_of_x, None, n, inside, channel_inner, channels, False, WIDE)
    shift_of_x = per_neuron(shift_of_x, None, n, inside, channel_inner, channels, False, WIDE)
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
            current = normalized(xs[i], scale_of_x, shift_of_x, CT)
            h = charge(v, fires(v, threshold, EQUAL), current, decay, gain, bias, amount, RESET)
            s = fires(h, threshold, EQUAL)
            v = tl.where(t < T, after_reset(h, s, amount, v_reset, RESET), v)
            out = s.to(CT) if SPIKING else h
            here = within(inside, 0, t, T, BLOCK)
            tl.store(spikes + t * spikes_stride + n, out.to(spikes.dtype.element_ty), mask=here)
            if bits is not None:
                every = within(byte < plane, 0, t, T, BLOCK // 8)
                tl.store(bits + t * plane + byte, packed(s & inside, BLOCK), mask=every)
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
            elif KEEP == "input" and rows is not None:
                tl.store(rows + at * N + n, xs[i], mask=kept)
    tl.store(v_last + n, v, mask=inside)
