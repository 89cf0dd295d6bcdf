"""The Triton kernels: one pass over memory each way, a block of neurons per program, the membrane in registers.

They follow ops/reference.py operation by operation; every expression rounds as it is written there, so they must be
launched with enable_fp_fusion=False. Steps are taken GROUP (or STEPS) at a time: a group's loads are issued together,
ahead of its arithmetic, and that is what keeps memory busy; a step beyond the end is computed and dropped.
"""

import triton
import triton.language as tl

LEVELS = tl.constexpr(127)  # as in ops/reference.py


@triton.jit
def per_neuron(ptr, number, n, inside, inner, length, SCALAR: tl.constexpr, WIDE: tl.constexpr, CT: tl.constexpr):
    """decay, gain or threshold: the number, the one element at ptr, or neuron n's, [BLOCK]."""
    if ptr is None:
        value = tl.full((), number, CT)
    elif SCALAR:
        value = tl.load(ptr)
    else:
        place = n if WIDE else n.to(tl.int32)
        value = tl.load(ptr + place // inner % length, mask=inside, other=0.0)
    return value


@triton.jit
def fires(h, threshold, EQUAL: tl.constexpr):
    if EQUAL:
        s = h >= threshold
    else:
        s = h > threshold
    return s


@triton.jit
def charge(v, x, decay, gain, bias, threshold, amount, RESET: tl.constexpr, EQUAL: tl.constexpr):
    h = decay * v + gain * x + bias
    if RESET == "delayed":
        h = h - tl.where(fires(v, threshold, EQUAL), amount, 0.0)
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
def divide(a, b, CT: tl.constexpr):
    """IEEE division: `/` alone is approximate in float32."""
    if CT == tl.float64:
        q = a / b
    else:
        q = tl.div_rn(a, b)
    return q


@triton.jit
def over_scale(a, scale, SHIFT: tl.constexpr, CT: tl.constexpr):
    """a / scale; by a power of two, multiplying with its inverse gives the same bits and is far cheaper."""
    if SHIFT:
        q = a * divide(tl.full((), 1.0, CT), scale, CT)
    else:
        q = divide(a, scale, CT)
    return q


@triton.jit
def surrogate(z, scale, height, SURROGATE: tl.constexpr, SHIFT: tl.constexpr, CT: tl.constexpr):
    a = tl.abs(z)
    if SURROGATE == "triangle":
        sg = tl.where(a < scale, height * (1.0 - over_scale(a, scale, SHIFT, CT)), 0.0)
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
def before_reset_was(h, before, threshold, amount, v_reset, RESET: tl.constexpr, EQUAL: tl.constexpr):
    return after_reset(h, fires(h, threshold, EQUAL), amount, v_reset, RESET)
