"""What both Triton kernels load, and how: numbers, parameters, membranes, and several steps of a matrix at once.

The loads of a group of steps are issued together, ahead of its arithmetic, and that keeps the memory busy.
"""

import triton
import triton.language as tl


@triton.jit
def constant(number, is_one: tl.constexpr, CT: tl.constexpr):
    """A number of the neuron in the membrane's type. What is known to be 1 multiplies nothing in compiled code."""
    return tl.full((), 1.0 if is_one else number, CT)


@triton.jit
def per_neuron(ptr, number, n, inside, inner, length, SCALAR: tl.constexpr, WIDE: tl.constexpr):
    """A parameter: `number`, the one element at ptr, or neuron n's, [BLOCK]."""
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
