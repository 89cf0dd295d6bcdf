"""What an operator hands to a backend: tensors that all lie in memory as a matrix [T, N] or a vector [N] does.

A step x[t] is dense, in whatever order of dimensions, and N = numel of one step; only the stride of time is free. So a
backend never sees channels_last, batches or images. A kernel takes addresses and the stride of time, and never asks for
a tensor's shape; the reference has `Call.flatten` make matrices and vectors first.
"""

from dataclasses import dataclass
from math import prod

import torch

from ..neuron import RESETS
from ..surrogate import KINDS
from .state import Chunk, Layout


def matrix(x: torch.Tensor) -> torch.Tensor:
    """[T, ...] with dense steps -> [T, N], no copy."""
    return x.as_strided((x.shape[0], prod(x.shape[1:])), (x.stride(0), 1))


def vector(v: torch.Tensor) -> torch.Tensor:
    """Dense [...] -> [N], no copy."""
    return v.as_strided((v.numel(),), (1,))


def like_step(v: torch.Tensor, size, stride) -> torch.Tensor:
    """v, [...], with the strides of a step of x; copied only if it has others, or no memory."""
    if tuple(v.stride()) == tuple(stride[1:]) and not v._is_zerotensor():
        return v
    return torch.empty_strided(size[1:], stride[1:], dtype=v.dtype, device=v.device).copy_(v)


def like_steps(g: torch.Tensor, size, stride) -> torch.Tensor:
    """g, [T, ...], with steps strided as `stride` says; copied only if they are not, or have no memory."""
    if tuple(g.stride()[1:]) == tuple(stride[1:]) and not g._is_zerotensor():
        return g
    return torch.empty_strided(size, stride, dtype=g.dtype, device=g.device).copy_(g)


@dataclass(frozen=True)
class Param:
    """decay, gain or threshold as a tensor: neuron n has data[n // inner % len(data)]."""

    data: torch.Tensor
    inner: int

    def per_neuron(self, neurons: int) -> torch.Tensor:
        """[N]."""
        if self.data.numel() == 1:
            return self.data.expand(neurons)
        run = self.data.repeat_interleave(self.inner)
        return run.repeat(neurons // run.numel()) if neurons else run[:0]


def param(p: torch.Tensor | None, size, stride) -> Param | None:
    """A tensor that broadcasts against a step of x, for one run of channels without a copy."""
    if p is None:
        return None
    step = size[1:]
    own = [d for d in range(-p.dim(), 0) if p.shape[d] != 1]
    if not own:
        return Param(p.reshape(1), 1)
    if len(own) == 1:
        return Param(p.reshape(-1).contiguous(), stride[own[0]])
    full = torch.empty_strided(step, stride[1:], dtype=p.dtype, device=p.device).copy_(p.expand(step))
    return Param(vector(full), 1)


def by_channel(p: torch.Tensor | None, size, stride) -> Param | None:
    """One number for each channel, p [C], of x [T, B, C, ...]."""
    return None if p is None else Param(p.contiguous(), channel_stride(size, stride))


def channel_stride(size, stride) -> int:
    """Neurons from one channel to the next: 1 where there is but one, whose stride may be anything."""
    return stride[2] if size[2] != 1 else 1


class Call:
    """A call's options under their names, its layout and its parameters."""

    def __init__(self, lay: Layout, size, stride, device, v0, params, affine, values, options):
        kind, surrogate, self.tied, self.detach_reset, self.fire_on_equal, self.spiking, *_ = options
        self.reset, self.surrogate = RESETS[kind], KINDS[surrogate]
        self.layout, self.keep, self.steps = lay, lay.keep, size[0]
        self.options, self.values, self.device = options, values, device
        self.params = [param(p, size, stride) for p in params]
        scale, shift = affine  # of batch norm, or None
        self.scale, self.shift = (by_channel(p, size, stride) for p in (scale, shift))
        self.v0 = None if v0 is None else like_step(v0, size, stride)

    def flatten(self) -> None:
        """Make every [T, ...] a matrix [T, N] and every [...] a vector [N] in the order of memory; no copy."""
        for names, flat in ((self.MATRICES, matrix), (self.VECTORS, vector)):
            for name in names:
                tensor = getattr(self, name)
                setattr(self, name, None if tensor is None else flat(tensor))

    @property
    def borders(self) -> torch.Tensor:
        return self.layout.borders_of(self.state)

    @property
    def rows(self) -> torch.Tensor:
        return self.layout.rows_of(self.state)

    def v0_or_zeros(self) -> torch.Tensor:
        """The membrane before the first step, [N]."""
        if self.v0 is not None:
            return self.v0
        return torch.zeros(self.layout.neurons, dtype=self.layout.compute, device=self.device)


class ForwardCall(Call):
    """x [T, N] in; spikes [T, N], v [N], state [bytes], bits [T, plane] (or None) to fill."""

    MATRICES, VECTORS = ("x", "spikes"), ("v0", "v")

    def __init__(self, lay, x, v0, params, affine, values, options, outputs):
        super().__init__(lay, x.shape, x.stride(), x.device, v0, params, affine, values, options)
        self.x = x
        self.spikes, self.v, self.state, self.bits = outputs


class BackwardCall(Call):
    """gs [T, N], gv [N], x [T, N], bits [T, plane] (each or None), state in; gx [T, N], totals [N] (or None) to fill.

    With batch norm gx is the gradient of what was normalized:
    scale * dL/dx - slope * (x - mean) - offset, the last two terms only where there is a slope. `at_once` are (sums
    [2, C] to fill, inverse, count), where the backend is to work out slope and offset itself: the CPU's alone does.
    """

    TOTALS = ("gv0", "gdecay", "ggain", "gthreshold", "gshift", "gscale")
    MATRICES, VECTORS = ("x", "gs", "gx"), ("v0", "gv", *TOTALS)

    def __init__(
        self, lay, gs, gv, x, v0, params, affine, through, state, bits, size, stride, values, options, outputs
    ):
        super().__init__(lay, size, stride, state.device, v0, params, affine, values, options)
        mean, slope, offset, *at_once = through
        self.at_once = at_once or (None, None, 0.0)
        self.mean, self.slope, self.offset = (by_channel(p, size, stride) for p in (mean, slope, offset))
        # hooks may have changed the strides of what was kept
        self.state, self.bits = state.contiguous(), None if bits is None else bits.contiguous()
        self.x = None if x is None else like_steps(x, size, stride)
        self.gs = None if gs is None else like_steps(gs, size, stride)
        self.gv = None if gv is None else like_step(gv, size, stride)
        self.gx, self.gv0, self.gdecay, self.ggain, self.gthreshold, self.gshift, self.gscale = outputs

    @property
    def totals(self) -> tuple[torch.Tensor | None, ...]:
        """The gradients that are one number a neuron, in the order of TOTALS."""
        return self.gv0, self.gdecay, self.ggain, self.gthreshold, self.gshift, self.gscale

    def x_kept(self, t: int, chunk: Chunk) -> torch.Tensor:
        """x[t], from the tensor itself or from its copy in the state."""
        return self.rows[chunk.row + t - chunk.start] if self.layout.copies_x else self.x[t]
