"""fastlif.compact: whatever a network keeps of spikes for backward, it keeps as bits."""

import functools
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from .hooks import spikes_as_bits
from .packed import Packing


class Compact:
    """Inside: Packing, and saved-tensor hooks for what Packing does not know. May be entered again and nested."""

    def __init__(self, recompute: str | None = None):
        self.recompute = recompute
        self.entered: list[ExitStack] = []

    def __enter__(self):
        with ExitStack() as stack:
            hooks = spikes_as_bits(self.recompute == "conv")
            stack.enter_context(hooks)
            stack.enter_context(Packing(hooks))
            self.entered.append(stack.pop_all())
        return self

    def __exit__(self, *error):
        return self.entered.pop().__exit__(*error)


class Compacted:
    """What a module's class becomes a subclass of: its forward runs inside `Compact`."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own."""
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        recompute = self._compact_recompute
        if torch.compiler.is_compiling():  # which sees functions, and no hooks
            if recompute:
                raise RuntimeError(
                    "fastlif.compact(net, recompute='conv') runs eagerly: it cannot be compiled for training; "
                    "for inference compile or export it under torch.no_grad()"
                )
            with Packing():
                return super().forward(*args, **kwargs)
        if not torch._C._autograd._saved_tensors_hooks_is_enabled():
            return super().forward(*args, **kwargs)
        with Compact(recompute):
            return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol):
        """A copy is made as the module's own class would, and compacted."""
        made = super().__reduce_ex__(protocol)
        own = type(self).__bases__[1]
        function, args, *state = made
        return _rebuild, (own, function, tuple(own if a is type(self) else a for a in args)), *state


@functools.cache
def _compacted(own: type) -> type:
    body = {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    return type(own.__name__, (Compacted, own), body)


def _rebuild(own, function, args):
    made = function(*args)
    made.__class__ = _compacted(own)
    return made


REFUSED = (
    (torch.jit.ScriptModule, "TorchScript runs outside of Python's hooks: compact the module it was made from"),
    (nn.DataParallel, "its threads do not see what was entered in this one: compact the module inside it"),
    (torch._dynamo.OptimizedModule, "it is compiled already: torch.compile(fastlif.compact(net)) instead"),
)


def compact(net: nn.Module | None = None, *, recompute: str | None = None) -> Any:
    """Keep as bits what `net` keeps of spikes for backward; gradients stay the same bit for bit.

    A tensor of spikes costs 1 bit a neuron and step, however many layers keep it, a sum or an average of spikes a byte
    where that is exact; anything else is kept as before. `net` itself is changed, and remains an instance of its class
    with the same state dict; so do its copies. It may be compiled, and hooks on saved tensors outside
    (`torch.utils.checkpoint`, `fastlif.saved_bytes`) see what is kept.

    Without a network: a context manager that does the same for all that runs inside it, eagerly.

    Spikes changed in place after the layer that keeps them are an error in backward, as without `compact`. Changes that
    PyTorch does not count, through `.data`, NumPy or DLPack, are not seen, here as in `PerStep`: made to spikes before
    the next layer has them, they give wrong gradients.

    Args:
        net: any network of this library's layers and others'.
        recompute: "conv": outputs of convolutions are not kept but made again in backward, from what is kept of their
            input (spikes as bits; anything else, such as the output of a convolution before, as it is) and under the
            same autocast and cuDNN state; `BatchNormLIF` and `LIF` behind them take the spikes from their bits, so that
            no other algorithm can change them. Outputs of transposed convolutions and linear layers are kept as
            before. Training runs eagerly only.

    Returns:
        net, or the context manager.

    Raises:
        ValueError: `recompute` is neither None nor "conv".
        TypeError: `net` is no module, or it or a module inside it cannot be served; the message says which, and why.
    """
    if recompute not in (None, "conv"):
        raise ValueError(f"recompute must be None or 'conv', got {recompute!r}")
    if net is None:
        return Compact(recompute)
    if not isinstance(net, nn.Module):
        raise TypeError(f"fastlif.compact needs a module, or nothing to be a context manager, got {type(net).__name__}")
    for name, module in net.named_modules():
        for refused, why in REFUSED:
            if isinstance(module, refused):
                where = f"{name!r}, a {type(module).__name__}" if name else f"a {type(module).__name__}"
                raise TypeError(f"fastlif.compact cannot serve {where}: {why}")
    if "forward" in vars(net):
        raise TypeError(
            f"fastlif.compact cannot serve a {type(net).__name__} whose forward was set on the instance: set it in its "
            "class, compact the modules inside it, or run it inside `with fastlif.compact():`"
        )
    if not isinstance(net, Compacted):
        net.__class__ = _compacted(type(net))
    net._compact_recompute = recompute
    return net
