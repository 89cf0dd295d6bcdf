"""fuse_bn: batch norm folded into the convolution or linear layer before it, for inference (TET, equation 6)."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from .batch_norm import BatchNormLIF
from .lif import LIF
from .per_step import PerStep

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fuse_bn(net: nn.Module) -> nn.Module:
    """A copy of `net`, in eval mode, without batch norm: each is folded into the layer before it.

        W' = W * weight / sqrt(running_var + eps),  b' = (b - running_mean) * weight / sqrt(running_var + eps) + bias

    A `BatchNormLIF` becomes a `LIF`, a torch batch norm an Identity. Outputs are equal within rounding: a spike differs
    only where the membrane is that close to the threshold.

    Args:
        net: a module in which batch norm follows a convolution or linear layer inside nn.Sequential and `PerStep`, in
            any nesting.

    Raises:
        ValueError: a batch norm that has no running statistics, or none of these layers before it, by name.
    """
    fused = copy.deepcopy(net).eval()
    if isinstance(fused, (BatchNormLIF, *BATCH_NORMS)):
        raise ValueError(f"cannot fold {type(fused).__name__}: there is no layer before it")
    for name, module in fused.named_modules():
        if isinstance(module, (nn.Sequential, PerStep)) and not _inside_chain(fused, name):
            _fold_chain(fused, _links(name, module))
    for name, module in fused.named_modules():
        if isinstance(module, (BatchNormLIF, *BATCH_NORMS)):
            raise ValueError(
                f"cannot fold {name!r} ({type(module).__name__}): no convolution or linear layer right before"
            )
    return fused


def _inside_chain(net, name):
    """Whether the module's parent is itself a chain, which then holds its links."""
    return bool(name) and isinstance(net.get_submodule(name.rpartition(".")[0]), (nn.Sequential, PerStep))


def _links(name, module):
    """[(name, module)] in the order in which a chain applies them."""
    if not isinstance(module, (nn.Sequential, PerStep)):
        return [(name, module)]
    found = []
    for child, inner in module.named_children():
        found += _links(f"{name}.{child}" if name else child, inner)
    return found


def _fold_chain(net, links):
    before = None
    for name, module in links:
        if isinstance(module, (BatchNormLIF, *BATCH_NORMS)) and isinstance(
            before, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
        ):
            if module.running_mean is None:
                raise ValueError(f"cannot fold {name!r}: it has no running statistics (track_running_stats=False)")
            _fold(before, module)
            after = _neurons_of(module) if isinstance(module, BatchNormLIF) else nn.Identity()
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, after)
            module = after
        if not isinstance(module, nn.Identity):
            before = module


@torch.no_grad()
def _fold(layer, norm):
    weight = norm.effective_weight() if isinstance(norm, BatchNormLIF) else norm.weight
    statistics = norm.running_mean, norm.running_var, norm.eps
    if isinstance(layer, nn.Linear):
        weight = torch.ones_like(norm.running_mean) if weight is None else weight
        bias = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
        layer.weight, layer.bias = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics, weight, bias)
    else:
        transposed = isinstance(layer, TRANSPOSED)
        layer.weight, layer.bias = fuse_conv_bn_weights(
            layer.weight, layer.bias, *statistics, weight, norm.bias, transpose=transposed
        )


def _neurons_of(norm: BatchNormLIF) -> LIF:
    """The neurons alone, parameters and carried membrane included."""
    lif = LIF.__new__(LIF)
    nn.Module.__init__(lif)
    for name in ("neuron", "carry_state", "backend", "v", "channels", "decay_logit", "threshold", "training"):
        setattr(lif, name, getattr(norm, name))
    return lif
