"""Bytes of the tensors that are alive during a forward and backward pass, of real tensors or fake ones."""

import weakref
from collections.abc import Iterable

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .saved import saved_bytes


def storage_of(tensor: torch.Tensor) -> int:
    """What tells a tensor's storage from all others that are alive; fake ones have no address."""
    return tensor.untyped_storage()._cdata


class Live(TorchDispatchMode):
    """Follows every storage that an operator makes from its birth to its end; memory inside operators is not seen."""

    def __init__(self, outside: Iterable[torch.Tensor]):
        super().__init__()
        self.watched = dict.fromkeys(map(storage_of, outside))  # storage: (number, weak reference), None if not counted
        self.sizes: list[int] = []
        self.events: list[int] = []  # n: storage number n is there, ~n: it is gone
        self.drew = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.equal.default and type(args[0]) is torch.Tensor:
            with unset_fake_temporarily() as fake:
                return func(*args) if fake is None else self.same_states()
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.device):  # what fake tensors are asked most
            return result
        self.drew |= torch.Tag.nondeterministic_seeded in func.tags
        for tensor in (result,) if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self.watch(tensor.untyped_storage())
        return result

    def same_states(self) -> bool:
        """What checkpoint_time asks of random generators after every window: whether nothing was drawn.

        Their states are real tensors even where all others are fake, and fake draws leave them as they are.
        """
        drew, self.drew = self.drew, False
        return not drew

    def watch(self, storage: torch.UntypedStorage) -> None:
        """Note its birth, if it is new, and in time its end."""
        key = storage._cdata
        if key in self.watched:
            return
        number = len(self.sizes)

        def end(_):
            del self.watched[key]
            self.events.append(~number)

        self.watched[key] = number, weakref.ref(storage, end)
        self.sizes.append(storage.nbytes())
        self.events.append(number)

    def peak(self, without: Iterable[torch.Tensor] = ()) -> int:
        """The most bytes alive at once, apart from tensors that are alive still."""
        left_out = {self.watched[storage_of(t)][0] for t in without if self.watched.get(storage_of(t))}
        now = most = 0
        for n in self.events:
            if max(n, ~n) not in left_out:
                now += self.sizes[n] if n >= 0 else -self.sizes[~n]
                most = max(most, now)
        return most


def training_step(net: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """(bytes kept for backward, most bytes alive at once) of net(x) and its backward pass.

    x, parameters, their gradients and buffers are in neither; the outputs and their gradients are in the second.
    """
    learned = [p for p in net.parameters() if p.requires_grad]
    results = []
    hook = net.register_forward_hook(lambda module, args, result: results.append(result))
    with Live([x, *net.parameters(), *net.buffers()]) as live:
        try:
            saved = saved_bytes(net, x).total
        finally:
            hook.remove()
        outputs = [t for t in tree_leaves(results) if isinstance(t, torch.Tensor) and t.requires_grad]
        if outputs:
            torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
    return saved, live.peak(p.grad for p in learned if p.grad is not None)
