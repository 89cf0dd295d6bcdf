"""Saved-tensor hooks that keep spikes as bits, hand on to the hooks outside them, and check for in-place changes."""

import functools
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from . import remake, spikes


class Version:
    """A tensor's count of in-place changes, without its memory where that is an ordinary storage."""

    def __init__(self, x: torch.Tensor):
        self.counter, self.then = x.detach(), x._version
        self.shape = None if x.is_nested else x.shape
        if x.layout == torch.strided and not x.is_nested:
            self.counter.data = x.new_empty(0)  # the count stays shared

    def check(self) -> None:
        """Raise RuntimeError as autograd does, if the tensor has been changed."""
        if self.counter._version != self.then:
            what = "a nested tensor" if self.shape is None else f"a tensor of shape {list(self.shape)}"
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"{what} is at version {self.counter._version}; expected version {self.then} instead"
            )


def spikes_as_bits(recompute: bool = False) -> saved_tensors_hooks:
    """A context in which autograd keeps known spikes as codes, and everything else as it does outside.

    With `recompute` outputs of convolutions are kept as what their input is kept as, and made again in backward. Only
    the innermost pair of hooks runs: the pair around this one is called on what is kept.
    """
    outer = torch._C._autograd._top_saved_tensors_default_hooks(True)
    outer_pack, outer_unpack = outer if outer is not None else (None, None)

    def pack(x: torch.Tensor) -> Any:
        versions, restore = [Version(x)], None
        made = remake.of(x) if recompute else None
        if made is not None:
            restore = functools.partial(made.again, size=x.shape, stride=x.stride(), offset=x.storage_offset())
            x = made.source
            versions.append(Version(x))
        elif spikes.known(x) is not None:
            x, recipe = spikes.encode(x)
            restore = functools.partial(spikes.decode, recipe=recipe)
        return (x if outer_pack is None else outer_pack(x)), restore, versions

    def unpack(kept: Any) -> torch.Tensor:
        x, restore, versions = kept
        for version in versions:
            version.check()
        if outer_unpack is not None:
            x = outer_unpack(x)
        return x if restore is None else restore(x)

    pack.recompute = recompute
    return saved_tensors_hooks(pack, unpack)
