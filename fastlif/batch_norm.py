"""fastlif.batch_norm_lif: batch norm over time, batch and space and the neurons behind it as one operator."""

import torch

from .checks import check_norm, refuse_transforms
from .functional import prepare
from .neuron import Neuron, _number
from .ops import batch_norm, channels
from .ops import state as formats


def batch_norm_lif(
    y: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    v0: torch.Tensor | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    group: str | None = None,
    decay: float | torch.Tensor = 0.5,
    gain: float | torch.Tensor = 1.0,
    threshold: float | torch.Tensor = 1.0,
    backend: str | None = None,
    **options,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalize y channel by channel, then run leaky integrate-and-fire neurons over all steps of the result.

        scale = weight / sqrt(var + eps),  shift = bias - mean * scale,  x[t] = scale * y[t] + shift,  then `lif`

    y is all that is kept for backward: x and the membranes are computed again, in the same order, so the gradients are
    exact with every surrogate and every reset. Against torch.nn.functional.batch_norm followed by `lif` a few spikes in
    a million differ, where rounding decides.

    Args:
        y: [T, B, C, ...], float64, float32, bfloat16 or float16, any strides. Statistics: over all but C, in float64.
        running_mean, running_var: [C]; updated in place when training, used in place of y's own statistics when not.
            None in training: no running statistics; None in both cases: y's own statistics always.
        weight, bias: [C], 1 and 0 by default.
        v0, decay, gain, threshold, backend, and the other options: as for `fastlif.lif` (its bias is `bias_current`).
        training: normalize by y's own mean and (biased) variance.
        momentum: weight of this call's mean and (unbiased) variance in the running ones, in [0, 1].
        eps: added to the variance; not negative.
        group: name of the process group (torch.distributed) over whose ranks the statistics are taken, None for this
            process alone.

    Returns:
        spikes, [T, B, C, ...] in y's strides and dtype (autocast dtype under autocast); the final membrane, [B, C, ...]

    Raises:
        TypeError, ValueError: as `fastlif.lif`; y without a channel axis; statistics of a single value per channel.
    """
    momentum, eps = _number("momentum", momentum, 0.0, 1.0), _number("eps", eps, 0.0)
    named = {"bias": options.pop("bias_current", 0.0), **options}
    tensors = [p if isinstance(p, torch.Tensor) else None for p in (decay, gain, threshold)]
    decay, gain, threshold = (n if p is None else None for n, p in zip((decay, gain, threshold), tensors, strict=True))
    neuron = Neuron(decay=decay, gain=gain, threshold=threshold, **named)
    return run(
        neuron, y, running_mean, running_var, weight, bias, v0, *tensors, training=training, momentum=momentum, eps=eps,
        group=group, backend=backend, emit=False,
    )[:2]  # fmt: skip


def run(
    neuron, y, running_mean, running_var, weight, bias, v0=None, decay=None, gain=None, threshold=None, *,
    training, momentum, eps, group=None, backend=None, emit=True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """`batch_norm_lif` for a Neuron made before, and the spikes as bits (see `functional.run_emitting`)."""
    y, params, own, dtype, backend = prepare(neuron, y, v0, decay, gain, threshold, backend)
    compute = formats.membrane_dtype(y.dtype)
    check_norm(y, running_mean, running_var, weight, bias)
    refuse_transforms(running_mean, running_var, weight, bias)
    weight, bias = (None if p is None else p.to(compute) for p in (weight, bias))
    own_statistics = training or running_mean is None
    if own_statistics and not group and y.numel() == y.shape[2] != 0:
        raise ValueError(
            f"batch norm needs more than one value per channel to take statistics of, got y {list(y.shape)}"
        )
    count = None
    with torch.no_grad():
        if own_statistics:
            mean, inverse, unbiased, count = statistics(y, eps, compute, group)
            if training and running_mean is not None and (group or y.numel()):
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        else:
            mean, inverse = running_mean.to(compute), (running_var.double() + eps).rsqrt().to(compute)
    tensors = (y, v0, *params, weight, bias)
    needs_grad = torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in tensors)
    keep = formats.Keep.INPUT if needs_grad else formats.Keep.NOTHING
    spikes, v, _, bits = batch_norm.batch_norm_lif(
        needs_grad, y, v0, *params, weight, bias, mean, inverse, neuron.values, neuron.options, int(keep), emit, own,
        backend, own_statistics, count, group or "",
    )  # fmt: skip
    return spikes if own == dtype else spikes.to(dtype), v, bits if emit else None


def statistics(y: torch.Tensor, eps: float, compute: torch.dtype, group: str | None):
    """Mean, 1 / deviation and unbiased variance of every channel, [C], and, where they are taken over the ranks of
    `group`, the number of values, [1]."""
    if not group:
        return *channels.statistics(y, eps, compute), None
    total, squares = torch.ops.fastlif.channel_moments(y)
    own = torch.full((1,), y.numel() // max(y.shape[2], 1), dtype=torch.float64, device=y.device)
    everywhere = batch_norm.all_reduce(torch.cat([total, own]), group)
    all_of_them, count = everywhere[:-1], everywhere[-1:].clamp(min=1)
    away = total / own.clamp(min=1) - all_of_them / count  # squares about each rank's own mean become those about all's
    squares = batch_norm.all_reduce(squares + own * away * away, group)
    return *channels.from_moments(all_of_them, squares, count, eps, compute), count
