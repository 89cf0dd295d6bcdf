"""Convolution, linear and pooling that keep their input, known spikes, as codes: PyTorch's own kernels, forward and
backward, on the same numbers in the same memory format."""

import torch
from torch import nn
from torch.nn import functional as F

from . import spikes
from .hooks import Version

SECOND = "double backward through spikes kept as bits: spikes are differentiable once"


class Keeping(torch.autograd.Function):
    """Saves x's codes, and restores x in backward."""

    @staticmethod
    def keep(ctx, x, codes, recipe, *others):
        """Save codes and what else backward needs."""
        ctx.save_for_backward(codes, *others)
        ctx.recipe, ctx.version = recipe, None
        if not torch.compiler.is_compiling():
            ctx.version = Version(x)
            with torch.enable_grad():
                ctx.link = torch.narrow_copy(x, 0, 0, 0) if x.requires_grad else None

    @staticmethod
    def restore(ctx, codes, g):
        """x, after the gradient g is there."""
        if ctx.version is None:
            return spikes.decode(codes, ctx.recipe, g)
        ctx.version.check()
        x = spikes.decode(codes, ctx.recipe).detach()
        return x if ctx.link is None or not torch.is_grad_enabled() else Restored.apply(x, ctx.link)


class Restored(torch.autograd.Function):
    """The identity on x, in a first derivative. `link`, which is empty, leads to what x depends on: a second derivative
    that goes there by x, and no other, meets this function."""

    @staticmethod
    def forward(ctx, x, link):
        """x."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        """Refused."""
        raise RuntimeError(SECOND)


class Convolution(Keeping):
    """torch.convolution, not transposed."""

    @staticmethod
    def forward(ctx, x, codes, recipe, weight, bias, stride, padding, dilation, groups):
        """x [B, C, ...]; without codes if weight needs no gradient."""
        Keeping.keep(ctx, x, codes, recipe, weight)
        ctx.options = stride, padding, dilation, False, [0] * len(stride), groups
        ctx.bias_size = None if bias is None else [bias.shape[0]]
        return torch.convolution(x, weight, bias, *ctx.options)

    @staticmethod
    def backward(ctx, g):
        """PyTorch's."""
        needs = ctx.needs_input_grad
        codes, weight = ctx.saved_tensors  # once: checkpoint() gives them once
        like = ctx.recipe.size, ctx.recipe.stride  # enough, where the weight needs no gradient
        x = Keeping.restore(ctx, codes, g) if needs[3] else g.new_empty_strided(*like)
        gx, gweight, gbias = torch.ops.aten.convolution_backward(
            g, x, weight, ctx.bias_size, *ctx.options, [needs[0], needs[3], needs[4]]
        )
        return gx, None, None, gweight, gbias, None, None, None, None


class Linear(Keeping):
    """F.linear of x [..., in]."""

    @staticmethod
    def forward(ctx, x, codes, recipe, weight, bias):
        """weight [out, in] with gradient."""
        Keeping.keep(ctx, x, codes, recipe, weight)
        ctx.by_rows = weight.stride() == (weight.shape[1], 1)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, g):
        """As mm's gradients have it, on matrices: by rows, or by columns if what they are of lies so."""
        codes, weight = ctx.saved_tensors
        rows, x = g.flatten(0, -2), Keeping.restore(ctx, codes, g).flatten(0, -2)
        needs, gx, gweight = ctx.needs_input_grad, None, None
        if needs[0]:
            gx = weight.t().mm(rows.t()).t() if x.stride() == (1, x.shape[0]) else rows.mm(weight)
            gx = gx.unflatten(0, g.shape[:-1])
        if needs[3]:
            gweight = rows.t().mm(x) if ctx.by_rows else x.t().mm(rows).t()
        return gx, None, None, gweight, rows.sum(0) if needs[4] else None


class AveragePool(torch.autograd.Function):
    """avg_pool2d or 3d, which needs its input's shape alone."""

    @staticmethod
    def forward(ctx, x, *options):
        """Options as the operator has them."""
        ctx.like = tuple(x.shape), tuple(x.stride())
        ctx.options = options
        return AVERAGE[len(options[0])](x, *options)

    @staticmethod
    def backward(ctx, g):
        """PyTorch's."""
        operator = {2: torch.ops.aten.avg_pool2d_backward, 3: torch.ops.aten.avg_pool3d_backward}
        like = g.new_empty_strided(*ctx.like)
        return operator[len(ctx.options[0])](g, like, *ctx.options), *(None,) * 6


class MaximumPool(Keeping):
    """max_pool2d or 3d: the indices, 8 bytes each, are found again in backward."""

    @staticmethod
    def forward(ctx, x, codes, recipe, *options):
        """Options as the operator has them."""
        Keeping.keep(ctx, x, codes, recipe)
        ctx.options = options
        return MAXIMUM[len(options[0])](x, *options)[0]

    @staticmethod
    def backward(ctx, g):
        """PyTorch's."""
        (codes,) = ctx.saved_tensors
        d, x = len(ctx.options[0]), Keeping.restore(ctx, codes, g).detach()  # no gradient depends on it
        indices = MAXIMUM[d](x, *ctx.options)[1]
        operator = {
            2: torch.ops.aten.max_pool2d_with_indices_backward,
            3: torch.ops.aten.max_pool3d_with_indices_backward,
        }
        return operator[d](g, x, *ctx.options, indices), *(None,) * 7


AVERAGE = {2: torch.ops.aten.avg_pool2d, 3: torch.ops.aten.avg_pool3d}
MAXIMUM = {2: torch.ops.aten.max_pool2d_with_indices, 3: torch.ops.aten.max_pool3d_with_indices}


def plain(*tensors: torch.Tensor | None) -> bool:
    """Whether all are ordinary tensors."""
    return all(t is None or type(t) is nn.Parameter or spikes.ordinary(t) for t in tensors)
