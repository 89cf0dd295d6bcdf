"""naive_lif: a plain PyTorch loop over the neuron's equations, differentiated by autograd. No code of fastlif's."""

import math

import torch


def triangle(z, width, height=None):
    peak = 1 / width if height is None else height
    return peak * torch.clamp(1 - z.abs() / width, min=0)


def rectangle(z, width):
    return (z.abs() < width / 2).to(z.dtype) / width


def pass_through(z, height):
    return torch.full_like(z, height)


def sigmoid(z, alpha):
    e = torch.exp(-(alpha * z).abs())
    return alpha * e / (1 + e) ** 2


def atan(z, alpha):
    return alpha / 2 / (1 + (math.pi / 2 * alpha * z) ** 2)


def fast_sigmoid(z, slope):
    return 1 / (1 + slope * z.abs()) ** 2


def triangle_integral(z, width, height=None):
    peak = 1 / width if height is None else height
    a = z.abs().clamp(max=width)
    return width * peak / 2 + peak * z.sign() * (a - a**2 / (2 * width))


def rectangle_integral(z, width):
    return z.clamp(-width / 2, width / 2) / width + 0.5


def pass_through_integral(z, height):
    return height * z


def sigmoid_integral(z, alpha):
    return torch.sigmoid(alpha * z)


def atan_integral(z, alpha):
    return torch.atan(math.pi / 2 * alpha * z) / math.pi + 0.5


def fast_sigmoid_integral(z, slope):
    return z / (1 + slope * z.abs()) + 0.5


class Fire(torch.autograd.Function):
    """The step function of z forward, `derivative` of z backward; `instead` is fired if given."""

    @staticmethod
    def forward(ctx, z, derivative, fire_on_equal, instead):
        ctx.save_for_backward(z)
        ctx.derivative = derivative
        if instead is not None:
            return instead.detach()
        return (z >= 0 if fire_on_equal else z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx, gs):
        (z,) = ctx.saved_tensors
        return gs * ctx.derivative(z), None, None, None


def naive_lif(
    x, v0=None, *, decay=0.5, gain=1.0, bias=0.0, threshold=1.0, reset="soft", reset_amount=None, v_reset=0.0,
    reset_delay=False, detach_reset=False, surrogate=("triangle", 1.0), fire_on_equal=True, truncate=None, smooth=False,
    forced=None,
):  # fmt: skip
    """spikes [T, ...] and the final membrane [...], all in x's dtype.

    surrogate: (name, *numbers) of a function above. smooth=True fires its integral instead of the step; forced,
    [T, ...], has the spikes to fire instead.
    """
    name, *numbers = surrogate
    derivative, integral = globals()[name], globals()[f"{name}_integral"]

    def fire(v, t):
        instead = None
        if forced is not None and t >= 0:
            instead = forced[t].to(v.dtype)
        elif smooth:
            instead = integral(v - threshold, *numbers)
        return Fire.apply(v - threshold, lambda z: derivative(z, *numbers), fire_on_equal, instead)

    def resetting(s):
        return s.detach() if detach_reset else s

    amount = threshold if reset_amount is None else reset_amount
    steps = x.shape[0]
    k1, k2 = (steps, steps) if truncate is None else (truncate if isinstance(truncate, tuple) else (truncate, truncate))
    v = torch.zeros_like(x[0]) if v0 is None and steps else v0
    spikes = []
    for t in range(steps):
        start = t // k1 * k1
        first = max(start, min(start + k1, steps) - k2)
        if (t == first and k2 < k1) or (t == start and t > 0):
            v = v.detach()
        with torch.set_grad_enabled(torch.is_grad_enabled() and t >= first):
            h = decay * v + gain * x[t] + bias
            if reset_delay:
                h = h - amount * resetting(fire(v, t - 1))
            s = fire(h, t)
            if reset == "soft" and not reset_delay:
                v = h - amount * resetting(s)
            elif reset == "hard":
                v = resetting(s) * v_reset + (1 - resetting(s)) * h
            else:
                v = h
        spikes.append(s)
    return torch.stack(spikes) if spikes else torch.empty_like(x), v
