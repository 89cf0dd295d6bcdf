"""Outputs of convolutions that backward makes again, from what is kept of their input, instead of keeping them."""

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from . import spikes


@dataclass
class Remake:
    """How to make the output of one convolution again. Lives as an attribute of the output's storage."""

    source: torch.Tensor  # the input's codes, or the input itself
    recipe: spikes.Recipe | None  # what makes the input of the codes
    source_version: int
    function: Callable[..., torch.Tensor]
    arguments: tuple  # all but the input
    parameters: tuple[tuple[torch.Tensor, int], ...]  # and their versions
    state: dict  # of autocast and cuDNN
    dtype: torch.dtype  # of the output, and its strides and version
    stride: tuple[int, ...]
    version: int

    def again(self, source: torch.Tensor, size, stride, offset: int) -> torch.Tensor:
        """A view of the output, from `source` as saved-tensor hooks gave it back, in whatever layout."""
        for parameter, version in self.parameters:
            if parameter._version != version:
                raise RuntimeError(
                    "a convolution's weight has been modified by an inplace operation since forward, and recompute="
                    f"'conv' would run it again: a tensor of shape {list(parameter.shape)} is at version "
                    f"{parameter._version}; expected version {version} instead"
                )
        with torch.no_grad(), as_then(source.device.type, self.state):
            x = strided_as(source, self.source.stride())
            if self.recipe is not None:
                x = spikes.decode(x, self.recipe)
            y = strided_as(self.function(x, *self.arguments), self.stride)
        return y.as_strided(size, stride, offset)


def note(y: torch.Tensor, x: torch.Tensor, function, *arguments) -> torch.Tensor:
    """Remember that y, fresh, is function(x, *arguments). Returns y."""
    source, recipe = (x.detach(), None) if spikes.known(x) is None else spikes.encode(x)
    parameters = tuple((p, p._version) for p in arguments if isinstance(p, torch.Tensor))
    state = state_of(x.device.type)
    y.untyped_storage()._fastlif_remake = Remake(
        source, recipe, source._version, function, arguments, parameters, state, y.dtype, y.stride(), y._version
    )
    return y


def strided_as(x: torch.Tensor, stride: tuple[int, ...]) -> torch.Tensor:
    """x with these strides; copied only if it has others."""
    if x.stride() == stride:
        return x
    y = torch.empty_strided(x.shape, stride, dtype=x.dtype, device=x.device)
    once = tuple(slice(1) if step == 0 else slice(None) for step in stride)  # expanded: one place for all
    y[once] = x[once]
    return y


def of(x: torch.Tensor) -> Remake | None:
    """How to make x again, if it is (a view of) a convolution's output, and neither that nor the input has changed."""
    if not spikes.ordinary(x) or x.layout != torch.strided:
        return None
    found = getattr(x.untyped_storage(), "_fastlif_remake", None)
    if found is None or (found.version, found.dtype) != (x._version, x.dtype):
        return None
    return found if found.source._version == found.source_version else None


def state_of(kind: str) -> dict:
    """What decides how a convolution runs on devices of this kind."""
    cudnn = torch.backends.cudnn
    return {
        "autocast": dict(
            enabled=torch.is_autocast_enabled(kind), dtype=torch.get_autocast_dtype(kind),
        ) if torch.amp.is_autocast_available(kind) else None,
        "cudnn": dict(
            enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic,
            allow_tf32=cudnn.allow_tf32,
        ) if kind == "cuda" else None,
    }  # fmt: skip


@contextmanager
def as_then(kind: str, state: dict):
    """Inside: the state that `state_of` found."""
    with ExitStack() as stack:
        if state["autocast"] is not None:
            stack.enter_context(torch.autocast(kind, cache_enabled=False, **state["autocast"]))
        if state["cudnn"] is not None:
            stack.enter_context(torch.backends.cudnn.flags(**state["cudnn"]))
        yield
