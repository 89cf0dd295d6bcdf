"""The Triton kernel of sums over channels: a program for a part of what a few channels have, in float64."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["stride", "part_stride", "inner", "channels", "per_row", "runs", "each"])
def channel_sums_kernel(
    rows, sums, squares,  # [R, N], [parts, channels] float64, the same or None
    stride, part_stride, inner, channels,  # neuron n is of channel n // inner % channels
    per_row, runs, each,  # runs of `inner` neurons of a channel: in a row, in all and in a part
    DENSE: tl.constexpr, SIDE_BY_SIDE: tl.constexpr, RUNS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Add up RUNS runs at a time: SPAN neurons of a channel, or with inner == 1 SPAN channels SIDE_BY_SIDE.

    DENSE: no gaps between rows, and so no division, which has 64 bits.
    """
    group, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    start, stop = part * each, tl.minimum((part + 1) * each, runs)
    span = tl.arange(0, SPAN)[None, :]
    total, second = tl.zeros([RUNS, SPAN], tl.float64), tl.zeros([RUNS, SPAN], tl.float64)
    for first in range(start, stop, RUNS):
        run = first + tl.arange(0, RUNS)[:, None]
        if DENSE:
            place = run * inner * channels
        else:
            place = run // per_row * stride + run % per_row * inner * channels
        if SIDE_BY_SIDE:
            c = group * SPAN + span
            x = tl.load(rows + place + c, mask=(run < stop) & (c < channels), other=0.0).to(tl.float64)
            total += x
            second += x * x
        else:
            for offset in range(0, inner, SPAN):
                n = offset + span
                x = tl.load(rows + place + group * inner + n, mask=(run < stop) & (n < inner), other=0.0).to(tl.float64)
                total += x
                second += x * x
    if SIDE_BY_SIDE:
        c = group * SPAN + tl.arange(0, SPAN)
        tl.store(sums + part * part_stride + c, tl.sum(total, 0), mask=c < channels)
        if squares is not None:
            tl.store(squares + part * part_stride + c, tl.sum(second, 0), mask=c < channels)
    else:
        tl.store(sums + part * part_stride + group, tl.sum(total))
        if squares is not None:
            tl.store(squares + part * part_stride + group, tl.sum(second))
