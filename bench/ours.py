"""fastlif as a contender: through the public API, and its bare kernels writing into memory allocated before."""

from collections.abc import Callable

import torch

import fastlif
from fastlif import ops
from fastlif.ops import backends, call, state

from .case import Case, Data

FORMATS = {  # name: (surrogate, state)
    "rectangle exact": ("rectangle", "exact"),
    "triangle compact": ("triangle", "compact"),
    "triangle exact": ("triangle", "exact"),
}


def missing(backend: str, case: Case) -> str | None:
    """Why `backend` cannot run `case`, or None."""
    return "; ".join(backends.reasons(backend, torch.device(case.device), case.torch_dtype)) or None


def in_use(case: Case) -> str:
    """The backend that fastlif.lif chooses by itself."""
    return backends.choose(None, torch.device(case.device), case.torch_dtype)


def public(form: dict, state: str = "exact", backend: str | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """x -> spikes by fastlif.lif, allocation included."""
    return lambda x: fastlif.lif(x, **form, state=state, backend=backend)[0]


def kept(form: dict, state_name: str) -> state.Keep:
    """The format that fastlif.lif keeps for this neuron when only x needs a gradient."""
    return state.choose(fastlif.Neuron(**form, state=state_name), True, False, False)


def moved_bytes(keep: state.Keep, case: Case) -> float:
    """Bytes per neuron-step that forward + backward must move: x, s, gs, gx, and what is kept, written and read.

    float32: 20 with x kept (backward reads it), 18 with the 1-byte code, 16.5 with two bits. Membranes stored at the
    borders of long runs are not counted; `Case.moved_bytes` adds the final one.
    """
    itemsize = case.torch_dtype.itemsize
    own = {state.Keep.INPUT: itemsize, state.Keep.CODE: 2, state.Keep.BITS: 0.5, state.Keep.SPIKES: 0.25}
    return 4 * itemsize + own.get(keep, 0)


class Kernel:
    """The kernels of one backend alone, on memory that is there already: comparable with copies into the same."""

    def __init__(self, form: dict, state_name: str, backend: str, data: Data):
        x, gs, self.spikes, self.gx = data
        neuron = fastlif.Neuron(**form, state=state_name)
        keep, self.backend = kept(form, state_name), backends.BACKENDS[backend]
        none, values, options = (None, None, None), neuron.values, neuron.options
        _, v, stored, _ = ops.allocate_forward(x, None, *none, values, options, keep, False, x.dtype, backend)
        full = state.Layout(x.shape, neuron.windows, keep, x.dtype)
        nothing = state.Layout(x.shape, neuron.windows, state.Keep.NOTHING, x.dtype)
        self.forward_call = call.ForwardCall(
            full, x, None, none, none[:2], values, options, (self.spikes, v, stored, None)
        )
        self.no_grad_call = call.ForwardCall(
            nothing, x, None, none, none[:2], values, options, (self.spikes, v, stored[:0], None)
        )
        saved_x = x if keep == state.Keep.INPUT else None
        gradients = (self.gx, *(None,) * 6)
        self.backward_call = call.BackwardCall(
            full,
            gs,
            None,
            saved_x,
            None,
            none,
            none[:2],
            none,
            stored,
            None,
            x.shape,
            x.stride(),
            values,
            options,
            gradients,
        )
        self.kept_bytes = stored.nbytes + (0 if saved_x is None else x.nbytes)

    def both(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(spikes, dL/dx)."""
        self.backend.forward(self.forward_call)
        self.backend.backward(self.backward_call)
        return self.spikes, self.gx

    def forward(self) -> torch.Tensor:
        """spikes, nothing kept."""
        self.backend.forward(self.no_grad_call)
        return self.spikes
