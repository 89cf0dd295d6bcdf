"""Sums over channels in float64, and what batch norm makes of them.

By the extension or Triton where they run, else by PyTorch. csrc/channels.h has the same formulas in the same order, so
the bits are the same.
"""

import torch

from . import native, triton
from .call import channel_stride, matrix
from .eager import unwatched

WARPS = 2048  # of a GPU at work on a sum: enough for its memory to be busy, few enough to add up what each has found
EACH = 1024  # numbers of a channel at least for a warp

TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)
library = torch.library.Library("fastlif", "FRAGMENT")
library.define("channel_moments(Tensor y) -> Tensor", tags=TAGS)


def moments(y: torch.Tensor) -> torch.Tensor:
    """[2, C] float64: of every channel of y [T, B, C, ...] the sum, and the sum of squared distances from the mean."""
    count = y.numel() // max(y.shape[2], 1)
    if count == 0:
        return y.new_zeros((2, y.shape[2]), dtype=torch.float64)
    if y.dtype == torch.float64:  # whose squares would have no digits left for a small variance of large numbers
        var, mean = torch.var_mean(y, [d for d in range(y.dim()) if d != 2], correction=0)
        return torch.stack([mean, var]) * count
    total, squares = sums_and_squares(y).sum(0)
    return torch.stack([total, (squares - total * total / count).clamp(min=0)])


library.impl("channel_moments", moments, "CompositeExplicitAutograd")
torch.library.register_fake(
    "fastlif::channel_moments", lambda y: y.new_empty((2, y.shape[2]), dtype=torch.float64), lib=library
)


def adder(device: torch.device):
    """What adds up rows [R, N] by channels on `device`, into parts [parts, 1 or 2, C]; None where only PyTorch runs."""
    if native.serves(device):
        return torch.ops.fastlif.native_channel_sums
    return None if triton.reasons(device, torch.float32) else triton.channel_sums


def sums_and_squares(y: torch.Tensor) -> torch.Tensor:
    """[parts, 2, C] float64, which add up to every channel's sum and sum of squares; y is [T, B, C, ...]."""
    if y.numel() == 0:
        return y.new_zeros((1, 2, y.shape[2]), dtype=torch.float64)
    add, inner = adder(y.device), channel_stride(y.shape, y.stride())
    if add is not None:
        parts = empty_parts(y, y.shape[2], inner)
        add(matrix(y), inner, parts)
        return parts
    dims = [d for d in range(y.dim() - 1) if d != 1]
    steps = (step.double() for step in y)  # no copy of all y in float64
    return torch.stack([torch.stack([step.sum(dims), step.square().sum(dims)]) for step in steps])


def sums_of_neurons(totals: list[torch.Tensor], size, stride) -> torch.Tensor:
    """[parts, 2, C] float64 of two tensors of a number a neuron, [B, C, ...]: the same every time, no atomics."""
    add, inner = adder(totals[0].device), channel_stride(size, stride)
    if add is None or totals[0].numel() == 0:
        dims = [d for d in range(totals[0].dim()) if d != 1]
        return torch.stack([g.sum(dims, dtype=torch.float64) for g in totals])[None]
    parts = empty_parts(totals[0], size[2], inner)
    for i, total in enumerate(totals):
        add(matrix(total[None]), inner, parts[:, i : i + 1])
    return parts


def empty_parts(rows: torch.Tensor, channels: int, inner: int) -> torch.Tensor:
    """[parts, 2, channels] float64 to be filled with sums of rows: on a CPU in one part, which is added to."""
    if rows.device.type == "cpu":
        return torch.zeros((1, 2, channels), dtype=torch.float64, device=rows.device)
    warps = -(-channels // 128) if inner == 1 else channels
    parts = max(1, min(WARPS // warps, rows.numel() // channels // EACH))
    return torch.empty((parts, 2, channels), dtype=torch.float64, device=rows.device)


def statistics(y: torch.Tensor, eps: float, compute: torch.dtype) -> tuple[torch.Tensor, ...]:
    """(mean, 1 / sqrt(biased variance + eps), unbiased variance) of every channel of y [T, B, C, ...], [C] each."""
    count = y.numel() // max(y.shape[2], 1)
    if y.dtype != torch.float64 and unwatched((y,)) and native.serves(y.device):
        found = tuple(y.new_empty(y.shape[2], dtype=compute) for _ in range(3))  # apart: backward keeps but two
        torch.ops.fastlif.native_statistics(sums_and_squares(y), max(count, 1), eps, *found)
        return found
    count = torch.full((1,), count, dtype=torch.float64, device=y.device)
    return from_moments(*torch.ops.fastlif.channel_moments(y), count, eps, compute)


def from_moments(total, squares, count, eps, compute):
    """`statistics` from channel_moments and the number of values in a channel, [1]."""
    count = count.clamp(min=1)  # without a step there is nothing to normalize
    mean, var = total / count, squares / count
    unbiased = var * (count / (count - 1).clamp(min=1))
    return mean.to(compute), (var + eps).rsqrt().to(compute), unbiased.to(compute)


def affine(weight, bias, mean, inverse, compiled: bool):
    """(scale, shift), [C], in the membrane's dtype; by the extension if `compiled`."""
    if compiled:
        own = (p if p is None else p.contiguous() for p in (weight, bias, mean, inverse))
        found = mean.new_empty(len(mean)), mean.new_empty(len(mean))
        torch.ops.fastlif.native_affine(*own, *found)
        return found
    scale = inverse if weight is None else inverse * weight
    shift = -(mean * scale) if bias is None else bias - mean * scale
    return scale, shift


def gradients(sums, count: float, inverse, scale, compiled: bool):
    """(gweight, gbias, slope, offset), [C], from the sums [parts, 2, C] of dL/dx and of dL/dx * (y - mean)."""
    if compiled:
        found = [torch.empty_like(scale) for _ in range(4)]
        torch.ops.fastlif.native_gradients(sums, count, inverse, scale, *found)
        return found
    shifted, scaled = sums.sum(0)
    of_parameters = (scaled * inverse).to(scale.dtype), shifted.to(scale.dtype)
    return *of_parameters, *slope_and_offset(shifted / count, scaled / count, inverse, scale)


def slope_and_offset(shifted, scaled, inverse, scale):
    """What the gradient through the statistics adds, [C] each, from the means of dL/dx and of dL/dx * (y - mean)."""
    return (scaled * inverse.double() * inverse * scale).to(scale.dtype), (shifted * scale).to(scale.dtype)
