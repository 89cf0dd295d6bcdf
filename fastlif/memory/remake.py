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
    input_version: int
    function: Callable[..., torch.Tensor]
    arguments: tuple  # all but the input
    parameters: tuple[tuple[torch.Tensor, int], ...]  # and their versions
    state: dict  # of autocast and cuDNN
    dtype: torch.dtype
    version: int  # of the output

    def again(self, source: torch.Tensor, size, stride, offset: int) -> torch.Tensor:
        """A view of the output, from `source` as saved-tensor hooks gave it back."""
        for parameter, version in self.parameters:
            if parameter._version != version:
                raise RuntimeError(
                    "a convolution's weight has been modified by an inplace operation since forward, and recompute="
                    f"'conv' would run it again: a tensor of shape {list(parameter.shape)} is at version "
                    f"{parameter._version}; expected version {version} instead"
                )
        if self.recipe is None and source._version != self.input_version:
            raise RuntimeError(
                "a convolution's input has been modified by an inplace operation since forward, and recompute='conv' "
                f"would run it again: a tensor of shape {list(source.shape)}"
            )
        x = source if self.recipe is None else spikes.decode(source, self.recipe)
        with torch.no_grad(), as_then(x.device.type, self.state):
            y = self.function(x, *self.arguments)
        return y.as_strided(size, stride, offset)


def note(y: torch.Tensor, x: torch.Tensor, function, *arguments) -> torch.Tensor:
    """Remember that y, fresh, is function(x, *arguments). Returns y."""
    source, recipe = (x.detach(), None) if spikes.known(x) is None else spikes.encode(x)
    parameters = tuple((p, p._version) for p in arguments if isinstance(p, torch.Tensor))
    state = state_of(x.device.type)
    y.untyped_storage()._fastlif_remake = Remake(
        source, recipe, x._version, function, arguments, parameters, state, y.dtype, y._version
    )
    return y


def of(x: torch.Tensor) -> Remake | None:
    """How to make x again, if it is (a view of) a convolution's output, unchanged since."""
    if not spikes.ordinary(x) or x.layout != torch.strided:
        return None
    found = getattr(x.untyped_storage(), "_fastlif_remake", None)
    return found if found is not None and (found.version, found.dtype) == (x._version, x.dtype) else None


def state_of(kind: str) -> dict:
    """What decides how a convolution runs on devices of this kind."""
    cudnn = torch.backends.cudnn
    return {
        "autocast": dict(enabled=torch.is_autocast_enabled(kind), dtype=torch.get_autocast_dtype(kind)),
        "cudnn": dict(
            enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic,
            allow_tf32=cudnn.allow_tf32,
        ) if kind == "cuda" else None,
    }  # fmt: skip


@contextmanager
def as_then(kind: str, state: dict):
    """Inside: the state that `state_of` found."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(kind, cache_enabled=False, **state["autocast"]))
        if state["cudnn"] is not None:
            stack.enter_context(torch.backends.cudnn.flags(**state["cudnn"]))
        yield
