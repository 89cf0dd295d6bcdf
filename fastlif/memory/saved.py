"""saved_bytes: what autograd keeps for backward, in bytes, by layer."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from .compact import Compact


@dataclass
class SavedBytes:
    """Bytes that autograd keeps: `total`, and `by_layer` under the modules' names ("" outside any)."""

    total: int = 0
    by_layer: dict[str, int] = field(default_factory=dict)


def saved_bytes(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> SavedBytes:
    """Run fn(*args, **kwargs) and count every distinct storage that autograd keeps of it for backward.

    Parameters and buffers of `fn` (if it is a module) and the tensors among the arguments are not counted: they are
    there anyway. A storage kept by several layers counts once, for the first. The result of `fn` is dropped. Inside
    `with fastlif.compact():` what that keeps is counted; what other hooks outside make of it is not.
    """
    net = fn if isinstance(fn, nn.Module) else None
    own = tree_leaves((args, kwargs)) + ([] if net is None else [*net.parameters(), *net.buffers()])
    ignored = {t.untyped_storage()._cdata for t in own if isinstance(t, torch.Tensor)}  # fake ones have no address
    kept: dict[int, torch.UntypedStorage] = {}  # holds on to the storages, so that none is taken for another
    by_layer: Counter[str] = Counter()
    path: list[str] = []
    outer = torch._C._autograd._top_saved_tensors_default_hooks(True)  # only the innermost pair runs
    outer_pack, outer_unpack = outer if outer is not None else (lambda tensor: tensor,) * 2

    def pack(tensor: torch.Tensor) -> Any:
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            if storage._cdata not in ignored and storage._cdata not in kept:
                kept[storage._cdata] = storage
                by_layer[path[-1] if path else ""] += storage.nbytes()
        return outer_pack(tensor)

    with ExitStack() as stack:
        if net is not None:
            stack.enter_context(_tracking(net, path))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, outer_unpack))
        if outer is not None and hasattr(outer_pack, "recompute"):  # compact's: again, as it serves the innermost alone
            stack.enter_context(Compact("conv" if outer_pack.recompute else None))
        result = fn(*args, **kwargs)
    del result
    kept.clear()  # where the graph lives on it holds `pack`
    return SavedBytes(sum(by_layer.values()), dict(by_layer))


def leave(path: list[str]) -> None:
    """Nothing returned: what a hook returns would replace the module's output."""
    path.pop()


@contextmanager
def _tracking(net: nn.Module, path: list[str]):
    """Keep the name of the module that is running on top of `path`."""
    handles = []
    for name, module in net.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: path.append(name)))
        handles.append(module.register_forward_hook(lambda *_: leave(path), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
