"""LIF, IF and LI: the layers, [T, B, ...] -> [T, B, ...]."""

import math
import numbers
from dataclasses import fields

import torch
from torch import nn

from .. import functional
from ..checks import check_x
from ..memory import spikes
from ..neuron import Neuron, _number
from ..ops import backends
from ..ops.state import membrane_dtype


class Stateful(nn.Module):
    """A layer of neurons that may carry its membrane from one call to the next (`carry_state=True`).

    `options` names those of the neuron's options that the layer takes.

    The membrane is neither a buffer nor part of the state dict: it belongs to the data, not to the model.
    """

    options = tuple(f.name for f in fields(Neuron) if f.init and f.name != "spiking")

    def __init__(self, neuron: Neuron, carry_state: bool, backend: str | None):
        super().__init__()
        backends.check(backend)
        self.neuron = neuron
        self.carry_state = carry_state
        self.backend = backend
        self.v: torch.Tensor | None = None

    def reset_state(self) -> None:
        """Forget the carried membrane: the next call starts from 0."""
        self.v = None

    def detach_state(self) -> None:
        """Keep the carried membrane's values and cut its gradient."""
        if self.v is not None:
            self.v = self.v.detach()

    def __getstate__(self):
        """A copy keeps the carried membrane's values, not the graph that made it."""
        return {**self.__dict__, "v": None if self.v is None else self.v.detach()}

    def _params(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: input current, [T, B, ...]. Returns [T, B, ...]: spikes, or membranes for `LI`."""
        check_x(x)
        carried = self.v if self.carry_state else None
        if carried is not None:
            self._check_carried(carried, x)
        out, v, plane = self._run(x, carried)
        if self.neuron.spiking:
            out = spikes.remember(out, plane=plane)
        if self.carry_state:
            self.v = v
        return out

    def _run(self, x: torch.Tensor, carried: torch.Tensor | None):
        """(spikes or membranes, final membrane, the spikes as bits or None)."""
        emit = self.neuron.spiking and torch.is_grad_enabled()
        params = self._params(x)
        return functional.run_emitting(self.neuron, x, carried, **params, backend=self.backend, emit=emit)

    def _check_carried(self, carried: torch.Tensor, x: torch.Tensor) -> None:
        have = carried.shape, membrane_dtype(carried.dtype), carried.device
        need = x.shape[1:], membrane_dtype(x.dtype), x.device
        if have != need:
            said = [f"{list(shape)}, {dtype}, on {device}" for shape, dtype, device in (have, need)]
            raise ValueError(
                f"the carried membrane is {said[0]}, and one step of x needs {said[1]}: "
                "call fastlif.reset_state(net) before another batch size, dtype or device"
            )
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not carried.is_inference():
            return
        if any(t.requires_grad for t in (x, *self.parameters())):
            raise RuntimeError(
                "the carried membrane was made under torch.inference_mode, and backward cannot keep such a tensor: "
                "call fastlif.reset_state(net) before training"
            )

    def extra_repr(self) -> str:
        default = Neuron()
        shown = [
            f"{name}={getattr(self.neuron, name)!r}"
            for name in self.options
            if getattr(self.neuron, name) is not None and getattr(self.neuron, name) != getattr(default, name)
        ]
        return ", ".join(shown + (["carry_state=True"] if self.carry_state else []))


class LIF(Stateful):
    """Leaky integrate-and-fire neurons over all steps at once (the equations of `fastlif.lif`).

    Args:
        decay: what a step leaves of the membrane, in [0, 1]; 1 - 1/tau for a time constant of tau steps.
        threshold: membrane at which a neuron fires.
        gain, bias, reset, reset_amount, v_reset, reset_delay, detach_reset, surrogate, fire_on_equal, truncate, state,
            backend: as for `fastlif.lif`, numbers only.
        learn_decay: decay is a parameter, stored as its logit (`decay_logit`) so that it stays in (0, 1).
        learn_threshold: threshold is a parameter.
        channels: one learned value for each channel, the dimension after the batch in [T, B, C, ...]; else one in all.
        carry_state: start each call from the membrane the last one ended with; see `fastlif.reset_state`. Not for
            torch.utils.checkpoint, whose second run would start where the first one ended.

    Shape: [T, B, ...] -> spikes [T, B, ...].
    """

    def __init__(
        self,
        decay: float = 0.5,
        threshold: float = 1.0,
        *,
        gain: float = 1.0,
        bias: float = 0.0,
        reset: str = "soft",
        reset_amount: float | None = None,
        v_reset: float = 0.0,
        reset_delay: bool = False,
        detach_reset: bool = False,
        surrogate="triangle",
        fire_on_equal: bool = True,
        truncate: int | tuple[int, int] | None = None,
        state: str = "exact",
        learn_decay: bool = False,
        learn_threshold: bool = False,
        channels: int | None = None,
        carry_state: bool = False,
        backend: str | None = None,
    ):
        neuron = Neuron(
            decay, gain, bias, threshold, reset, reset_amount, v_reset, reset_delay, detach_reset, surrogate,
            fire_on_equal, truncate, state,
        )  # fmt: skip
        if channels is not None:
            channels = check_channels(channels, "a positive integer or None")
        if learn_decay and not 0 < _number("decay", decay) < 1:
            raise ValueError(f"learn_decay=True needs decay inside (0, 1), where its logit is finite, got {decay}")
        if learn_decay and state == "compact":
            raise ValueError("state='compact' cannot serve learn_decay=True: use state='exact'")
        if channels is not None and not (learn_decay or learn_threshold):
            raise ValueError("channels is for learned values: set learn_decay or learn_threshold")
        super().__init__(neuron, carry_state, backend)
        shape = () if channels is None else (channels,)
        self.channels = channels
        self.decay_logit = nn.Parameter(torch.full(shape, math.log(decay / (1 - decay)))) if learn_decay else None
        if learn_threshold:
            threshold = nn.Parameter(torch.full(shape, _number("threshold", threshold)))
        self.threshold = threshold

    @property
    def decay(self) -> float | torch.Tensor:
        """The decay in use: a number, or the sigmoid of the learned logit."""
        return self.neuron.decay if self.decay_logit is None else torch.sigmoid(self.decay_logit)

    def _params(self, x):
        if self.channels is not None and x.dim() < 3:
            raise ValueError(f"channels={self.channels} needs x [T, B, C, ...], got {list(x.shape)}")

        def by_channel(p):
            return p if self.channels is None else p.view(-1, *(1,) * (x.dim() - 3))

        learned = {}
        if self.decay_logit is not None:
            learned["decay"] = by_channel(self.decay)
        if isinstance(self.threshold, nn.Parameter):
            learned["threshold"] = by_channel(self.threshold)
        return learned

    def extra_repr(self) -> str:
        learned = [name for name in ("decay", "threshold") if isinstance(getattr(self, name), torch.Tensor)]
        parts = [super().extra_repr(), *(f"learn_{n}=True" for n in learned)]
        return ", ".join(p for p in parts + ([f"channels={self.channels}"] if self.channels else []) if p)


def check_channels(channels: int, allowed: str = "a positive integer") -> int:
    """channels as an int; TypeError or ValueError if it is no positive integer."""
    whole = isinstance(channels, numbers.Integral) and not isinstance(channels, bool)
    if not whole or channels < 1:
        raise (ValueError if whole else TypeError)(f"channels must be {allowed}, got {channels!r}")
    return int(channels)


class IF(LIF):
    """Integrate-and-fire neurons: `LIF` without leak. All options but decay are those of `LIF`."""

    options = tuple(name for name in LIF.options if name != "decay")

    def __init__(self, threshold: float = 1.0, **options):
        if "decay" in options or "learn_decay" in options:
            raise TypeError("IF has no decay: use LIF")
        super().__init__(1.0, threshold, **options)


class LI(Stateful):
    """Leaky integrator, not spiking: v[t] = decay * v[t-1] + gain * x[t] + bias, returned at every step.

    Args: as for `LIF`. Shape: [T, B, ...] -> membranes [T, B, ...], in x's dtype (the
    autocast dtype under autocast).
    """

    options = ("decay", "gain", "bias", "truncate")

    def __init__(
        self,
        decay: float = 0.5,
        *,
        gain: float = 1.0,
        bias: float = 0.0,
        truncate: int | tuple[int, int] | None = None,
        carry_state: bool = False,
        backend: str | None = None,
    ):
        neuron = Neuron(decay, gain, bias, reset="none", surrogate="pass_through", truncate=truncate, spiking=False)
        super().__init__(neuron, carry_state, backend)


def reset_state(net: nn.Module) -> nn.Module:
    """Forget the carried membrane of every layer in `net`, before a new sequence. Returns `net`."""
    for module in net.modules():
        if isinstance(module, Stateful):
            module.reset_state()
    return net


def detach_state(net: nn.Module) -> nn.Module:
    """Cut the gradient of every carried membrane in `net`, between windows of one sequence. Returns `net`."""
    for module in net.modules():
        if isinstance(module, Stateful):
            module.detach_state()
    return net
