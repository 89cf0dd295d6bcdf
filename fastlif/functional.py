"""fastlif.lif: all steps of a layer of leaky integrate-and-fire neurons, forward and backward, in one kernel each."""

import functools

import torch

from . import ops
from .checks import check_number, check_param, check_v0, check_x, dense_steps, refuse_transforms
from .neuron import Neuron
from .ops import backends, state
from .ops.state import Keep


def lif(
    x: torch.Tensor,
    v0: torch.Tensor | None = None,
    *,
    decay: float | torch.Tensor = 0.5,
    gain: float | torch.Tensor = 1.0,
    bias: float = 0.0,
    threshold: float | torch.Tensor = 1.0,
    reset: str = "soft",
    reset_amount: float | None = None,
    v_reset: float = 0.0,
    reset_delay: bool = False,
    detach_reset: bool = False,
    surrogate="triangle",
    fire_on_equal: bool = True,
    truncate: int | tuple[int, int] | None = None,
    state: str = "exact",
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run leaky integrate-and-fire neurons over all steps of x.

        charge   h[t] = decay * v[t-1] + gain * x[t] + bias
        fire     s[t] = h[t] >= threshold
        reset    soft: v[t] = h[t] - reset_amount * s[t]   hard: v[t] = v_reset if s[t] else h[t]   none: v[t] = h[t]

    Args:
        x: input current, [T, ...], float64, float32, bfloat16 or float16, any strides. T = 0 is valid.
        v0: membrane before the first step, [...], float32 (float64 for float64 x); 0 by default.
        decay: what a step leaves of the membrane, in [0, 1]. Like gain and threshold a number, or a tensor on x's
            device that broadcasts against one step of x and gets its gradient (its values are not checked: that
            would wait for the device).
        gain: factor of x.
        bias: added in every step.
        threshold: membrane at which a neuron fires.
        reset: "soft", "hard" or "none".
        reset_amount: what a soft reset subtracts; the threshold itself unless given.
        v_reset: membrane after a hard reset.
        reset_delay: soft only. The subtraction belongs to the next step and does not leak:
            h[t] = decay * v[t-1] + gain * x[t] + bias - reset_amount * s[t-1], v[t] = h[t] (snnTorch, BlocTrain).
        detach_reset: no gradient through the spike that resets.
        surrogate: derivative of firing in backward: a name ("triangle", "rectangle", "pass_through", "sigmoid", "atan",
            "fast_sigmoid") or an object of fastlif.surrogate.
        fire_on_equal: whether h == threshold fires.
        truncate: k cuts the gradient along time every k steps; (k1, k2) lets only the last k2 steps of each window of
            k1 carry any.
        state: what is kept for backward. "exact": the smallest format that gives exact gradients (0.25 byte per neuron
            and step for a rectangle, else x). "compact": at most 1 byte, for triangle and rectangle, with the surrogate
            derivative within 0.4 % of its peak (0.8 % for hard reset without detach_reset).
        backend: "reference", "cpu", "cuda" or "triton"; by device unless given. A forced one never falls back.

    Returns:
        spikes, [T, ...] in x's strides and dtype (the autocast dtype under autocast), and the final membrane, [...],
        float32 (float64 for float64 x).

    Raises:
        TypeError, ValueError: an argument is not of the kind or in the range above; the message names it.
        RuntimeError: the forced backend cannot run this call; the message says why.
    """
    tensors = [p if isinstance(p, torch.Tensor) else None for p in (decay, gain, threshold)]
    decay, gain, threshold = (n if p is None else None for n, p in zip((decay, gain, threshold), tensors, strict=True))
    options = (
        decay, gain, bias, threshold, reset, reset_amount, v_reset, reset_delay, detach_reset, surrogate,
        fire_on_equal, tuple(truncate) if isinstance(truncate, list) else truncate, state,
    )  # fmt: skip
    if torch.compiler.is_compiling():
        return run(Neuron(*options), x, v0, *tensors, backend=backend)
    try:
        neuron = make_neuron(*options)
    except TypeError:
        neuron = None
    if neuron is None:  # an option is of the wrong kind, perhaps one that cannot be hashed: Neuron says which
        neuron = Neuron(*options)
    return run(neuron, x, v0, *tensors, backend=backend)


@functools.lru_cache(maxsize=1024, typed=True)
def make_neuron(*options) -> Neuron:
    """A checked Neuron, the same object for the same options."""
    return Neuron(*options)


def run(
    neuron: Neuron,
    x: torch.Tensor,
    v0: torch.Tensor | None = None,
    decay: torch.Tensor | None = None,
    gain: torch.Tensor | None = None,
    threshold: torch.Tensor | None = None,
    *,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`lif` for a Neuron made before; the tensors stand in for its numbers. (spikes or membranes, final membrane)."""
    return run_emitting(neuron, x, v0, decay, gain, threshold, backend=backend, emit=False)[:2]


def run_emitting(
    neuron, x, v0=None, decay=None, gain=None, threshold=None, *, backend=None, emit=True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """`run`, and the spikes again as bits: [T, ceil(N / 8)] uint8, neuron n of a step (in the order of memory) is bit
    n % 8 of byte n // 8; None without `emit`."""
    x, params, own, dtype, backend = prepare(neuron, x, v0, decay, gain, threshold, backend)
    grads = [p is not None and p.requires_grad for p in (x, v0, *params)]
    needs_grad = torch.is_grad_enabled() and any(grads)
    keep = state.choose(neuron, needs_grad, grads[2] or grads[3], grads[4])
    has_bits = emit and keep in (Keep.SPIKES, Keep.BITS) and neuron.windows[0] == neuron.windows[1]
    spikes, v, kept, bits = ops.lif(
        needs_grad, x, v0, *params, neuron.values, neuron.options, int(keep), emit and not has_bits, own, backend
    )
    if has_bits:  # the first of a step's planes
        row = kept.numel() // max(x.shape[0], 1)
        bits = kept.view(x.shape[0], row)[:, : row // int(keep)]
    return spikes if own == dtype else spikes.to(dtype), v, bits if emit else None


def prepare(neuron, x, v0, decay, gain, threshold, backend):
    """Checked and ready for an operator: x, (decay, gain, threshold), the operator's and the caller's dtype of spikes,
    the backend."""
    check_x(x)
    refuse_transforms(x, v0, decay, gain, threshold)
    if not dense_steps(x):
        x = x.clone(memory_format=torch.contiguous_format)
    compute = state.membrane_dtype(x.dtype)
    if v0 is not None:
        check_v0(v0, x, compute)
    params = [
        check_number(name, number) if p is None else check_param(name, p, x, compute)
        for name, number, p in (
            ("decay", neuron.decay, decay),
            ("gain", neuron.gain, gain),
            ("threshold", neuron.threshold, threshold),
        )
    ]
    kind = x.device.type
    dtype = x.dtype
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    if not neuron.spiking and x.dtype != dtype:
        x = x.float()
    own = x.dtype if x.dtype.itemsize == dtype.itemsize else dtype  # spikes are 0 or 1: exact in any dtype
    return x, params, own, dtype, backends.choose(backend, x.device, x.dtype)
