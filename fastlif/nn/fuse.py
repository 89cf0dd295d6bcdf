"""fuse_bn: batch norm folded into the convolution or linear layer before it, for inference (TET, equation 6)."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ..memory.compact import Compacted
from ..ops.state import membrane_dtype
from .batch_norm import BatchNormLIF
from .lif import LIF
from .per_step import PerStep

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
NORMS = (BatchNormLIF, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
CHAINS = (nn.Sequential, PerStep)
METHODS = ("__call__", "__iter__", "forward", "_conv_forward", "_fold", "_run")  # what a call of any of these runs


class Link(NamedTuple):
    """A module in a chain, and how many `PerStep` are around it there."""

    name: str
    module: nn.Module | None
    depth: int = 0

    def __str__(self) -> str:
        return f"{self.name!r} ({type(self.module).__name__})" if self.name else type(self.module).__name__


def fuse_bn(net: nn.Module) -> nn.Module:
    """A copy of `net`, in eval mode, without batch norm: each is folded into the layer before it.

        W' = W * weight / sqrt(running_var + eps),  b' = (b - running_mean) * weight / sqrt(running_var + eps) + bias

    A `BatchNormLIF` becomes a `LIF`, a torch batch norm an Identity. Outputs are equal within rounding: a spike differs
    only where the membrane is that close to the threshold.

    A linear layer's channels are the last axis, batch norm's the one behind the batch: the same or not by the input's
    number of dimensions, which shows only when it comes. So a folded layer gets a forward pre-hook: ValueError for an
    input with which these are two axes, as [N, L, F] into nn.Sequential(nn.Linear(...), nn.BatchNorm1d(...)).

    Args:
        net: a module in which batch norm follows a convolution or linear layer inside nn.Sequential and `PerStep`, in
            any nesting, which are called as a whole: calls of a part of them cannot be seen here.

    Raises:
        ValueError: a batch norm, by name, with none of these layers right before it; without running statistics; of
            other channels than the layer's. One of the two has forward hooks, a forward of its own or a weight that is
            computed (parametrizations, weight_norm). The layer is used elsewhere too, without this batch norm.
    """
    _runs(net)  # refuses before it copies: what computes its weight cannot always be copied
    fused = copy.deepcopy(net).eval()
    folded, after = set(), {}
    for layer, *norms in _runs(fused):
        for norm in norms:
            if layer.module not in folded:
                _fold(layer, norm)
            if norm.module not in after:
                after[norm.module] = (
                    _neurons_of(norm.module) if isinstance(norm.module, BatchNormLIF) else nn.Identity()
                )
            parent, _, child = norm.name.rpartition(".")
            setattr(fused.get_submodule(parent), child, after[norm.module])
        folded.add(layer.module)
    return fused


def _runs(net: nn.Module) -> list[list[Link]]:
    """[layer, batch norm, ...] for every place where these follow each other; ValueError for any other batch norm."""
    runs = []
    for root in _roots(net):
        run = []
        for link in _links(root):
            if not isinstance(link.module, NORMS):
                run = [link]
                runs.append(run)
            elif reason := _refusal(run, link):
                raise ValueError(f"cannot fold {link}: {reason}")
            else:
                run.append(link)
    first = {}
    for run in runs:
        before = first.setdefault(run[0].module, run)
        (one, *norms), (other, *others) = before, run
        if [(n.module, n.depth - one.depth) for n in norms] != [(n.module, n.depth - other.depth) for n in others]:
            raise ValueError(
                f"cannot fold {(norms or others)[0]}: {one} before it is used again, as {other.name!r}, and not with "
                "the same batch norm behind it: give each use a layer of its own"
            )
    return [run for run in runs if len(run) > 1]


def _roots(net: nn.Module) -> Iterator[Link]:
    """Every module at every place where something else than a chain may call it."""
    yield Link("", net)
    for name, module in net.named_modules():
        in_order = _steps(module) or {}
        for key, child in module._modules.items():
            if key not in in_order:
                yield Link(f"{name}.{key}" if name else key, child)


def _links(link: Link) -> Iterator[Link]:
    """What a chain applies, one after the other, without Identity; a chain with hooks stands where these run."""
    name, module, depth = link
    in_order = _steps(module)
    if in_order is None:
        if not _is_plain(module, (nn.Identity,)) or _altered(module):
            yield link
        return
    if module._forward_pre_hooks:
        yield link
    for key, child in in_order.items():
        yield from _links(Link(f"{name}.{key}" if name else key, child, depth + isinstance(module, PerStep)))
    if module._forward_hooks:
        yield link


def _steps(module: nn.Module | None) -> dict[str, nn.Module | None] | None:
    """What a chain applies in order, by its names there, a module as often as it is applied; None if it is no chain."""
    if _is_plain(module, (nn.Sequential,)):
        return module._modules
    return {"module": module.module} if _is_plain(module, (PerStep,)) else None


def _is_plain(module: nn.Module | None, kinds: tuple[type, ...]) -> bool:
    """Whether it computes what one of these classes does: its own class changes none of their METHODS."""
    own = type(module).__bases__[1] if isinstance(module, Compacted) else type(module)
    return any(
        isinstance(module, kind)
        and "forward" not in vars(module)
        and all(getattr(own, name, None) is getattr(kind, name, None) for name in METHODS)
        for kind in kinds
    )


def _altered(module: nn.Module) -> str | None:
    """Why a call of this layer, batch norm or chain may give something else than its class and numbers say."""
    if isinstance(module, (*LAYERS, *NORMS)) and (
        is_parametrized(module) or not {"weight", "bias"} <= module._parameters.keys()
    ):
        return (
            "has a weight that is computed in each call: first make it a number "
            "(torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm or remove_spectral_norm of "
            "torch.nn.utils, torch.nn.utils.prune.remove)"
        )
    if isinstance(module, (*LAYERS, *NORMS, *CHAINS)) and not _is_plain(module, (*LAYERS, *NORMS, *CHAINS)):
        return "has a forward of its own"
    if module is not None and (module._forward_hooks or module._forward_pre_hooks):
        return "has forward hooks, which may change values: remove them first"
    return None


def _refusal(run: list[Link], norm: Link) -> str | None:
    """Why this batch norm cannot be folded into what comes before it, [layer, batch norm, ...]; None if it can."""
    if reason := _altered(norm.module):
        return f"it {reason}"
    if norm.module.running_mean is None:
        return "it has no running statistics (track_running_stats=False)"
    if not run or isinstance(run[-1].module, BatchNormLIF) or not isinstance(run[0].module, (*LAYERS, *CHAINS)):
        return "no convolution or linear layer right before it in an nn.Sequential or PerStep that keeps its forward"
    before = run[0]
    if reason := _altered(before.module):
        return f"{before} before it {reason}"
    linear = isinstance(before.module, nn.Linear)
    made = before.module.out_features if linear else before.module.out_channels
    if made != norm.module.num_features:
        return f"its {norm.module.num_features} channels are not the {made} of {before} before it"
    if not linear and _input_dims(before, norm) != before.module.weight.dim():
        return (
            f"its channels are on another axis than those of {before} before it: torch's batch norm belongs inside "
            "the same PerStep, BatchNormLIF behind it"
        )
    return None


def _input_dims(layer: Link, norm: Link) -> int:
    """The number of dimensions of the layer's input with which its channels are batch norm's."""
    behind = layer.module.weight.dim() - 1  # axes from the layer's channels on: 1 for linear
    axis = 2 if isinstance(norm.module, BatchNormLIF) else 1
    return axis + behind + norm.depth - layer.depth  # each PerStep takes one away


@torch.no_grad()
def _fold(link: Link, norm: Link) -> None:
    layer, bn = link.module, norm.module
    var = bn.running_var.to(membrane_dtype(bn.running_var.dtype))
    weight = bn.effective_weight(var) if isinstance(bn, BatchNormLIF) else bn.weight
    scale = (var + bn.eps).rsqrt() * (1 if weight is None else weight)
    shift = ((0 if layer.bias is None else layer.bias) - bn.running_mean) * scale + (0 if bn.bias is None else bn.bias)
    if isinstance(layer, TRANSPOSED):  # weight [in, out / groups, ...]
        factor = scale.view(layer.groups, -1).repeat_interleave(layer.in_channels // layer.groups, 0)
    else:  # [out, in / groups, ...]
        factor = scale.view(-1, 1)
    old = layer.weight
    factor = factor.view(*factor.shape, *(1,) * (old.dim() - 2))
    layer.weight = nn.Parameter((old * factor).to(old.dtype), old.requires_grad)
    layer.bias = nn.Parameter(shift.to(old.dtype), old.requires_grad)
    layer.register_forward_pre_hook(partial(_check_dims, _input_dims(link, norm), norm.name))


def _check_dims(dims: int, norm: str, layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    """The pre-hook of a folded layer."""
    if args[0].dim() != dims:
        raise ValueError(
            f"fuse_bn folded batch norm {norm!r} into this {type(layer).__name__} for inputs of {dims} dimensions, "
            f"where both have the same channels, got {list(args[0].shape)}: use the network without fuse_bn"
        )


def _neurons_of(norm: BatchNormLIF) -> LIF:
    """The neurons alone, parameters and carried membrane included."""
    lif = LIF.__new__(LIF)
    nn.Module.__init__(lif)
    for name in ("neuron", "carry_state", "backend", "v", "channels", "decay_logit", "threshold", "training"):
        setattr(lif, name, getattr(norm, name))
    return lif
