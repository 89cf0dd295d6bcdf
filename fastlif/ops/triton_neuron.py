"""The arithmetic of one step of a neuron in Triton, forward and backward, and the formats of what is kept.

Every expression follows ops/reference.py and rounds as it is written there, so kernels made of these are launched with
enable_fp_fusion=False. CT is the membrane's type; the other capitals are options of the neuron.
"""

import triton
import triton.language as tl

LEVELS = tl.constexpr(127)  # as in ops/reference.py


@triton.jit
def fires(h, threshold, EQUAL: tl.constexpr):
    if EQUAL:
        s = h >= threshold
    else:
        s = h > threshold
    return s


@triton.jit
def normalized(x, scale_of_x, shift_of_x, CT: tl.constexpr):
    """A step's input in the membrane's type, normalized where batch norm goes before (else None, None)."""
    x = x.to(CT)
    if scale_of_x is not None:
        x = scale_of_x * x + shift_of_x
    return x


@triton.jit
def through_norm(gx, x, scale_of_x, mean, slope, offset, CT: tl.constexpr):
    """The gradient of what batch norm normalized, x, from that of its result."""
    if scale_of_x is not None:
        gx = scale_of_x * gx
        if slope is not None:
            gx = gx - slope * (x.to(CT) - mean) - offset
    return gx


@triton.jit
def charge(v, before, x, decay, gain, bias, amount, RESET: tl.constexpr):
    """h from the membrane and the spikes of the step before, and the input."""
    h = decay * v + gain * x + bias
    if RESET == "delayed":
        h = h - tl.where(before, amount, 0.0)
    return h


@triton.jit
def after_reset(h, s, amount, v_reset, RESET: tl.constexpr):
    v = h
    if RESET == "soft":
        v = h - tl.where(s, amount, 0.0)
    elif RESET == "hard":
        v = tl.where(s, v_reset, h)
    return v


@triton.jit
def forgotten(h, OPAQUE: tl.constexpr):
    """h, but unknown to the compiler, which otherwise keeps all that it derived from h before, until registers spill.

    The interpreter runs no assembly: OPAQUE is False there. h may be a plane of spikes too, [BLOCK // 8] int32.
    """
    if OPAQUE and h.dtype.primitive_bitwidth == 32:
        plane: tl.constexpr = h.dtype == tl.int32  # not even loaded where nobody asks for it
        h = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [h], dtype=h.dtype, is_pure=plane, pack=1)
    return h


@triton.jit
def divide(a, b, CT: tl.constexpr):
    """IEEE division: `/` alone is approximate in float32."""
    if CT == tl.float64:
        q = a / b
    else:
        q = tl.div_rn(a, b)
    return q


@triton.jit
def over_scale(a, scale, SCALE: tl.constexpr, CT: tl.constexpr):
    """a / scale; by a power of two, multiplying with its inverse gives the same bits and is far cheaper."""
    if SCALE == "one":
        q = a
    elif SCALE == "power of two":
        q = a * divide(tl.full((), 1.0, CT), scale, CT)
    else:
        q = divide(a, scale, CT)
    return q


@triton.jit
def surrogate(z, scale, height, SURROGATE: tl.constexpr, SCALE: tl.constexpr, CT: tl.constexpr):
    a = tl.abs(z)
    if SURROGATE == "triangle":
        sg = tl.where(a < scale, height * (1.0 - over_scale(a, scale, SCALE, CT)), 0.0)
    elif SURROGATE == "rectangle":
        sg = tl.where(a < scale, height, 0.0)
    elif SURROGATE == "pass_through":
        sg = height + tl.zeros_like(z)
    elif SURROGATE == "sigmoid":
        e = tl.exp(-(scale * a))
        sg = divide(height * e, (1.0 + e) * (1.0 + e), CT)
    elif SURROGATE == "atan":
        u = scale * z
        sg = divide(height, 1.0 + u * u, CT)
    else:
        d = 1.0 + scale * a
        sg = divide(height, d * d, CT)
    return sg


@triton.jit
def packed(s, BLOCK: tl.constexpr):
    """[BLOCK] bool -> [BLOCK // 8] uint8."""
    bits = tl.reshape(s.to(tl.int32), [BLOCK // 8, 8]) << tl.arange(0, 8)[None, :]
    return tl.sum(bits, axis=1).to(tl.uint8)


@triton.jit
def unpacked(plane, BLOCK: tl.constexpr):
    """[BLOCK // 8] uint8 -> [BLOCK] bool."""
    bits = plane.to(tl.int32)[:, None] >> tl.arange(0, 8)[None, :]
    return tl.reshape(bits & 1, [BLOCK]) != 0


@triton.jit
def encoded(z, s, scale, SCALE: tl.constexpr, CT: tl.constexpr):
    """The 1-byte code: the spike, and 7 bits of abs(z) / scale."""
    a = tl.abs(z)
    level = tl.minimum(over_scale(a, scale, SCALE, CT) * LEVELS, LEVELS - 1.0)
    level = tl.where(a < scale, level, LEVELS + 0.0).to(tl.int32)
    return (level | (s.to(tl.int32) << 7)).to(tl.uint8)


@triton.jit
def decoded(code, threshold, scale, height, SURROGATE: tl.constexpr, CT: tl.constexpr):
    """(s, surrogate derivative, h) from the 1-byte code."""
    s = code >= 128
    level = (code & 127).to(tl.int32)
    a = (level.to(CT) + 0.5) * tl.full((), 1 / LEVELS, CT)
    peak = height
    if SURROGATE == "triangle":
        peak = height * (1.0 - a)
    z = a * scale
    return s, tl.where(level < LEVELS, peak, 0.0), threshold + tl.where(s, z, -z)


@triton.jit
def taken(s, sg, amount, TIED: tl.constexpr, DETACH: tl.constexpr, CT: tl.constexpr):
    """d(-reset_amount * s) / dthreshold: the spike moves with the threshold, and so does a tied amount."""
    if DETACH:
        moved = tl.zeros_like(s.to(CT))
    else:
        moved = amount * sg
    if TIED:
        moved = moved - s.to(CT)
    return moved
