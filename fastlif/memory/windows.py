"""Windows: a module run on one part of a sequence after another, its layers' membranes carried from part to part."""

import math
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.utils.checkpoint import get_device_states, set_device_states

from ..checks import dense_steps


class Windows:
    """A module, its layers of neurons and the windows [start, stop) of a sequence: what both passes share."""

    def __init__(self, module: nn.Module, layers: dict[str, nn.Module], x: torch.Tensor, steps: int):
        self.module = module
        self.names = {layer: name or "the module itself" for name, layer in layers.items()}
        self.layers = list(layers.values())
        self.ranges = [(t, min(t + steps, x.shape[0])) for t in range(0, max(x.shape[0], 1), steps)]
        numbers = {id(p): i for i, p in enumerate(p for p in module.parameters() if p.requires_grad)}
        self.places = [
            (owner._parameters, name, numbers[id(p)])
            for owner in module.modules()
            for name, p in owner._parameters.items()
            if id(p) in numbers
        ]
        self.modes = [(part, part.training) for part in module.modules()]
        self.fixed = {name: (t, t._version) for name, t in self.not_learned().items() if not t.is_inference()}
        self.casts = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            for kind in {x.device.type, "cpu"}
            if torch.amp.is_autocast_available(kind)
        ]

    def forward(self, x: torch.Tensor, membranes: Sequence[torch.Tensor | None], keep: bool):
        """(outputs, final membranes, and before each window: the membranes, the states of the generators it uses)."""
        out, borders, drawn, version = None, [], [], None if x.is_inference() else x._version
        state = generators(x) if keep else []
        with self.carrying(), self.autocast():
            for start, stop in self.ranges:
                if keep:
                    borders.append(list(membranes))
                y, membranes = self.window(x[start:stop], membranes)
                if version is not None and x._version != version:
                    raise RuntimeError("checkpoint_time runs the module on x twice, and the module changes x in place")
                if out is None:
                    out = allocate(y, x.shape[0])
                if (y.shape[1:], y.dtype) != (out.shape[1:], out.dtype):
                    said = [f"{list(t.shape[1:])} of {t.dtype}" for t in (out, y)]
                    raise RuntimeError(f"one step of the module's output is {said[0]}, and in a later window {said[1]}")
                out[start:stop] = y
                if state:
                    before, state = state, generators(x)
                    same = all(a.equal(b) for a, b in zip(before, state, strict=True))
                    drawn.append([None] * len(before) if same else before)
                else:
                    drawn.append([])
        self.check_fixed("changes while the module runs, so that its result depends on how time is split")
        return out, membranes, borders, drawn

    def window(self, x: torch.Tensor, membranes: Sequence[torch.Tensor | None]):
        """(output, membranes after) of one window, from the membranes before. Inside `carrying`."""
        self.expected = dict(zip(self.layers, membranes, strict=True))
        self.ran = set()
        for layer, v in self.expected.items():
            layer.v = v
        y = self.module(x)
        if not isinstance(y, torch.Tensor) or y.dim() == 0 or y.shape[0] != x.shape[0]:
            got = list(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise RuntimeError(
                f"checkpoint_time needs one output [T, ...], got {got} for a window of {x.shape[0]} steps"
            )
        for layer in self.layers:
            self.check_membrane(layer)
        after, self.expected = list(self.expected.values()), {}
        return y, after

    @contextmanager
    def carrying(self):
        """Every layer carries its membrane and is watched; afterwards it is as it was."""
        before = [(layer, layer.v, layer.carry_state) for layer in self.layers]
        hooks = [layer.register_forward_pre_hook(self.enter) for layer in self.layers]
        hooks += [layer.register_forward_hook(self.leave) for layer in self.layers]
        try:
            for layer in self.layers:
                layer.carry_state = True
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for layer, v, carry_state in before:
                layer.v, layer.carry_state = v, carry_state

    def enter(self, layer: nn.Module, args) -> None:
        if layer in self.ran:
            raise RuntimeError(
                f"{self.names[layer]} runs twice in one call of the module, and checkpoint_time cannot carry a "
                "membrane for both: use a layer for each"
            )
        self.check_membrane(layer)
        self.ran.add(layer)

    def leave(self, layer: nn.Module, args, output) -> None:
        self.expected[layer] = layer.v

    def check_membrane(self, layer: nn.Module) -> None:
        if layer.v is not self.expected[layer]:
            raise RuntimeError(
                f"the module sets, resets or detaches the membrane of {self.names[layer]} while it runs, and "
                "checkpoint_time carries it: do that outside"
            )

    @contextmanager
    def prepared(self, learned: list[nn.Parameter]):
        """For backward: as in forward, with `learned` in the parameters' places, so that the hooks of those do not run
        for every window."""
        self.check_fixed("was changed after checkpoint_time ran, and its backward pass runs the module again")
        own = [table[name] for table, name, _ in self.places]
        modes = [(part, part.training) for part, _ in self.modes]
        try:
            for table, name, number in self.places:
                table[name] = learned[number]
            for part, training in self.modes:
                part.training = training
            with self.carrying():
                yield
        finally:
            for (table, name, _), p in zip(self.places, own, strict=True):
                table[name] = p
            for part, training in modes:
                part.training = training

    @contextmanager
    def autocast(self):
        """As where the module was called. No cache: it would keep casts made without gradient for the caller's use."""
        with ExitStack() as stack:
            for kind, dtype, enabled in self.casts:
                stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=False))
            yield

    def not_learned(self) -> dict[str, torch.Tensor]:
        named = [*self.module.named_buffers(), *self.module.named_parameters()]
        return {name: t for name, t in named if not (isinstance(t, nn.Parameter) and t.requires_grad)}

    def check_fixed(self, what: str) -> None:
        """Buffers and frozen parameters are what they were; for learned ones autograd sees to it."""
        now = self.not_learned()
        for name, (t, version) in self.fixed.items():
            if now.get(name) is not t or t._version != version:
                raise RuntimeError(f"{name} {what}")


def allocate(y: torch.Tensor, length: int) -> torch.Tensor:
    """Empty, for `length` steps like those of y, in their order of memory."""
    size = length, *y.shape[1:]
    if not dense_steps(y):
        return y.new_empty(size)
    return y.new_empty_strided(size, (math.prod(y.shape[1:]), *y.stride()[1:]))


def generators(x: torch.Tensor) -> list[torch.Tensor]:
    """The states of the CPU's random number generator and of that of x's device."""
    return [torch.get_rng_state(), *get_device_states(x)[1]]


@contextmanager
def same_draws(x: torch.Tensor, states: list[torch.Tensor | None]):
    """Draw what was drawn from these states on, and leave the generators as they are. Nothing to do for None."""
    if not states or states[0] is None:
        yield
        return
    devices, kind = [x.get_device()] if len(states) > 1 else [], x.device.type
    with torch.random.fork_rng(devices, device_type=kind):
        torch.set_rng_state(states[0])
        set_device_states(devices, states[1:], device_type=kind)
        yield
