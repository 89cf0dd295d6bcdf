"""The naive contender: a loop over steps in plain PyTorch with a surrogate function, and its torch.compile."""

from collections.abc import Callable

import torch

from fastlif import Rectangle, Triangle


class TriangleSpike(torch.autograd.Function):
    """H(h - threshold) whose derivative is height * max(0, 1 - abs(h - threshold) / width)."""

    @staticmethod
    def forward(ctx, h, threshold, width, height, on_equal):
        ctx.save_for_backward(h)
        ctx.numbers = threshold, width, height
        return (h >= threshold if on_equal else h > threshold).to(h.dtype)

    @staticmethod
    def backward(ctx, gs):
        (h,) = ctx.saved_tensors
        threshold, width, height = ctx.numbers
        return gs * (height * (1 - (h - threshold).abs() / width).clamp(min=0)), None, None, None, None


class RectangleSpike(torch.autograd.Function):
    """H(h - threshold) whose derivative is height where abs(h - threshold) < half."""

    @staticmethod
    def forward(ctx, h, threshold, half, height, on_equal):
        ctx.save_for_backward(h)
        ctx.numbers = threshold, half, height
        return (h >= threshold if on_equal else h > threshold).to(h.dtype)

    @staticmethod
    def backward(ctx, gs):
        (h,) = ctx.saved_tensors
        threshold, half, height = ctx.numbers
        return gs * (height * ((h - threshold).abs() < half)), None, None, None, None


SPIKES = {Triangle: TriangleSpike, Rectangle: RectangleSpike}


def spike_function(surrogate: Triangle | Rectangle, on_equal: bool = True) -> Callable:
    """fire(h, threshold) -> spikes, as snnTorch takes it too: fire(h - threshold)."""
    function, numbers = SPIKES[type(surrogate)], surrogate.numbers

    def fire(h: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
        return function.apply(h, threshold, *numbers, on_equal)

    return fire


def loop(form: dict) -> Callable[[torch.Tensor], torch.Tensor]:
    """x [T, ...] -> spikes [T, ...] of the neuron `form` (options of fastlif.lif), step by step in float32."""
    decay, gain, threshold, reset = (form[key] for key in ("decay", "gain", "threshold", "reset"))
    detach, delayed = form.get("detach_reset", False), form.get("reset_delay", False)
    fire = spike_function(form["surrogate"], form.get("fire_on_equal", True))

    def run(x: torch.Tensor) -> torch.Tensor:
        v = torch.zeros(x.shape[1:], dtype=torch.float32, device=x.device)
        spikes, resets = [], torch.zeros_like(v)
        for t in range(x.shape[0]):
            h = decay * v + (x[t] if gain == 1 else gain * x[t])
            if delayed:
                h = h - threshold * resets
            s = fire(h, threshold)
            resets = s.detach() if detach else s
            if delayed:
                v = h
            elif reset == "soft":
                v = h - threshold * resets
            else:
                v = h * (1 - resets)
            spikes.append(s.to(x.dtype))
        return torch.stack(spikes)

    return run


def compiled(form: dict) -> Callable[[torch.Tensor], torch.Tensor]:
    """torch.compile of the loop, unrolled over its steps."""
    return torch.compile(loop(form), fullgraph=True, dynamic=False)
