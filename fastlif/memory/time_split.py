"""Which modules may run a sequence window by window with the same result, and why another may not."""

import functools

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrizations, parametrize

from .compact import Compacted

DIMENSIONS = "Conv ConvTranspose AvgPool MaxPool AdaptiveAvgPool AdaptiveMaxPool BatchNorm InstanceNorm Dropout"
STEP_BY_STEP = (  # a sample's result depends on that sample alone, but for what `refusal` tells apart
    *(getattr(nn, f"{name}{d}d") for name in DIMENSIONS.split() for d in (1, 2, 3)),
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.Upsample),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.SyncBatchNorm, nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Softsign),
)
OF_WEIGHTS = (  # and never see x
    parametrize.ParametrizationList,
    *(getattr(parametrizations, name) for name in ("_WeightNorm", "_SpectralNorm", "_Orthogonal")),
)


@functools.cache
def classes() -> tuple[type, tuple[type, ...], frozenset[type]]:
    """(Stateful, batch norms, all that are known to work step by step)."""
    from .. import nn as layers  # not above: the layers use this package

    fused = getattr(layers, "BatchNormLIF", None)
    norms = (_BatchNorm,) if fused is None else (_BatchNorm, fused)
    known = {layers.Stateful, layers.PerStep, *norms[1:], *STEP_BY_STEP, *OF_WEIGHTS}
    return layers.Stateful, norms, frozenset(known)


def stateful_layers(net: nn.Module) -> dict[str, nn.Module]:
    """The layers of neurons in `net`, by name."""
    stateful = classes()[0]
    return {name: module for name, module in net.named_modules() if isinstance(module, stateful)}


def is_known(module: nn.Module) -> bool:
    """Whether its class, or the one it has its forward from, is known or declares itself."""
    if "forward" in vars(module):
        return False
    for cls in type(module).__mro__:
        if "checkpoint_time_safe" in vars(cls):
            return bool(cls.checkpoint_time_safe)
        if cls in classes()[2]:
            return True
        if "forward" in vars(cls) and cls is not Compacted:
            return False
    return False


def refusal(module: nn.Module, length: int, steps: int) -> str | None:
    """Why this one module, apart from its children, cannot run `length` steps in windows of `steps`; None if it can."""
    stateful, norms, _ = classes()
    if isinstance(module, norms):
        if module.training:
            return (
                "batch norm in training mode takes its statistics over all steps at once, so that they depend on how "
                "time is split: freeze it with .eval(), or use GroupNorm"
            )
        if getattr(module, "running_mean", module) is None:
            return "without running statistics batch norm uses those of the call in eval mode too: use GroupNorm"
    if isinstance(module, _InstanceNorm) and module.training and module.track_running_stats:
        return "its running statistics would be updated twice: freeze it with .eval(), or track_running_stats=False"
    if isinstance(module, parametrizations._SpectralNorm) and module.training:
        return "in training mode it changes its vectors every time it is asked for the weight: freeze it with .eval()"
    if isinstance(module, parametrize.ParametrizationList) and parametrize._cache_enabled:
        return "parametrize.cached() would keep the weight without its gradient: run this outside of it"
    if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
        return "it is compiled for whole sequences: hand over the module that was compiled"
    if not is_known(module):
        return (
            "not known to work step by step: if it does, and all that it keeps between steps is the membranes of "
            "fastlif's layers, say so with checkpoint_time_safe = True in its class"
        )
    if isinstance(module, stateful):
        window = module.neuron.windows[0]
        if window and steps < length and steps % window:
            return (
                f"truncate={module.neuron.truncate} counts its windows from the start of a call: "
                f"steps must be a multiple of {window}, got {steps}"
            )
    return None


def refuse(net: nn.Module, length: int, steps: int) -> None:
    """ValueError with the names and reasons of all modules in `net` that cannot run in windows."""
    found = []
    for name, module in net.named_modules():
        reason = refusal(module, length, steps)
        if reason is not None:
            found.append(f"  {name or 'the module itself'} ({type(module).__name__}): {reason}")
    if found:
        raise ValueError("checkpoint_time cannot run this in windows of time:\n" + "\n".join(found))
