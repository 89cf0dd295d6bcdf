"""LIF, IF and LI: the layers, [T, B, ...] -> [T, B, ...]."""

import math
from dataclasses import fields

import torch
from torch import nn

from .. import functional
from ..neuron import Neuron


class Stateful(nn.Module):
    """A layer of neurons that may carry its membrane from one call to the next (`carry_state=True`).

    The membrane is neither a buffer nor part of the state dict: it belongs to the data, not to the model.
    """

    def __init__(self, neuron: Neuron, carry_state: bool, backend: str | None):
        super().__init__()
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
        carried = self.v if self.carry_state else None
        if carried is not None and carried.shape != x.shape[1:]:
            raise ValueError(
                f"the carried membrane is {list(carried.shape)} and one step of x is {list(x.shape[1:])}: "
                "call fastlif.reset_state(net) before another batch size"
            )
        out, v = functional.run(self.neuron, x, carried, **self._params(x), backend=self.backend)
        if self.carry_state:
            self.v = v
        return out

    def extra_repr(self) -> str:
        default = Neuron()
        shown = [
            f"{name}={getattr(self.neuron, name)!r}"
            for name in (f.name for f in fields(Neuron) if f.init)
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
        carry_state: start each call from the membrane the last one ended with; see `fastlif.reset_state`.

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
        if learn_decay and not 0 < decay < 1:
            raise ValueError(f"learn_decay=True needs decay inside (0, 1), where its logit is finite, got {decay}")
        if learn_decay and state == "compact":
            raise ValueError("state='compact' cannot serve learn_decay=True: use state='exact'")
        if channels is not None and not (learn_decay or learn_threshold):
            raise ValueError("channels is for learned values: set learn_decay or learn_threshold")
        super().__init__(neuron, carry_state, backend)
        shape = () if channels is None else (channels,)
        self.channels = channels
        self.decay_logit = nn.Parameter(torch.full(shape, math.log(decay / (1 - decay)))) if learn_decay else None
        self.threshold = nn.Parameter(torch.full(shape, float(threshold))) if learn_threshold else None

    @property
    def decay(self) -> float | torch.Tensor:
        """The decay in use: a number, or the sigmoid of the learned logit."""
        return self.neuron.decay if self.decay_logit is None else torch.sigmoid(self.decay_logit)

    def _params(self, x):
        def by_channel(p):
            return p if self.channels is None else p.view(-1, *(1,) * (x.dim() - 3))

        learned = {}
        if self.decay_logit is not None:
            learned["decay"] = by_channel(self.decay)
        if self.threshold is not None:
            learned["threshold"] = by_channel(self.threshold)
        return learned

    def extra_repr(self) -> str:
        learned = [n for n, p in (("decay", self.decay_logit), ("threshold", self.threshold)) if p is not None]
        parts = [super().extra_repr(), *(f"learn_{n}=True" for n in learned)]
        return ", ".join(p for p in parts + ([f"channels={self.channels}"] if self.channels else []) if p)


class IF(LIF):
    """Integrate-and-fire neurons: `LIF` without leak. All options but decay are those of `LIF`."""

    def __init__(self, threshold: float = 1.0, **options):
        if "decay" in options or "learn_decay" in options:
            raise TypeError("IF has no decay: use LIF")
        super().__init__(1.0, threshold, **options)


class LI(Stateful):
    """Leaky integrator, not spiking: v[t] = decay * v[t-1] + gain * x[t] + bias, returned at every step.

    Args: as for `LIF`. Shape: [T, B, ...] -> membranes [T, B, ...], in x's dtype.
    """

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
