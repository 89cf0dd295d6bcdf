"""checkpoint_time: the gradient of a long sequence from the memory of one window, whose forward pass runs twice."""

import math
import numbers
from itertools import chain, islice

import torch
from torch import nn

from .time_split import refuse, stateful_layers
from .windows import Windows, same_draws


@torch.compiler.disable(reason="fastlif.checkpoint_time runs the module again in backward: compile its parts instead")
def checkpoint_time(module: nn.Module, x: torch.Tensor, steps: int | None = None) -> torch.Tensor:
    """module(x) over windows of `steps` steps; backward runs the windows again, the last one first.

    The membranes of all layers of neurons are carried over the borders, and so are their gradients: outputs, the
    gradients of x and those of initial membranes are those of module(x), bit for bit where the module's own operators
    do not depend on the number of steps; gradients of parameters are summed by windows, which rounds differently.

    Kept for backward are x and the membranes at the borders, 4 bytes per neuron and border (8 for float64); during
    backward also what one window keeps. With b bytes per neuron and step in a window the sum is smallest at
    sqrt(4 * T / b) steps; the default, sqrt(T), is within a quarter of that sum for any b from 1 to 16.

    Args:
        module: its children are layers of fastlif's, or torch modules that treat each sample by itself (dropout
            too: it draws a mask for every window, and the same one again in backward), or of a class that declares
            `checkpoint_time_safe = True`: step by step, and what it differentiates by besides x is its parameters.
            Parametrizations of weights may be PyTorch's, or of classes that declare the same. Forward hooks run in both
            passes; what they and the module draw from PyTorch's default generators is the same in both. Under
            DistributedDataParallel call this inside the wrapped forward.
        x: [T, B, ...]; T = 0 is valid.
        steps: of a window, at least 1, the last one may be shorter; a multiple of every layer's `truncate`. By default
            sqrt(T), rounded up to such a multiple.

    Returns:
        [T, ...]. Layers with `carry_state=True` start from the membrane that they carry and are left with the last one.

    Raises:
        ValueError: the module cannot run in windows; the message names every part that cannot, and why.
        TypeError, ValueError: an argument is not of the kind or in the range above.
        RuntimeError: in forward, a layer of neurons runs twice, or has its membrane set; a buffer changes. In backward,
            double backward (it is differentiable once); a buffer or parameter has changed since.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a tensor [T, B, ...], got {type(x).__name__}")
    if x.dim() == 0:
        raise ValueError("x must have a time axis, [T, B, ...], got a tensor without dimensions")
    length = x.shape[0]
    layers = stateful_layers(module)
    if steps is None:
        steps = best_steps(length, [layer.neuron.windows[0] for layer in layers.values()])
    elif isinstance(steps, bool) or not isinstance(steps, numbers.Integral):
        raise TypeError(f"steps must be an integer or None, got {steps!r}")
    elif steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    refuse(module, length, steps)

    run = Windows(module, layers, x, int(steps))
    initial = [layer.v if layer.carry_state else None for layer in layers.values()]
    learned = [p for p in module.parameters() if p.requires_grad]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *initial, *learned)):
        out, *final = CheckpointTime.apply(run, x, *initial, *learned)
    else:
        with torch.no_grad():
            out, final, _, _ = run.forward(x, initial, keep=False)
    for layer, v in zip(layers.values(), final, strict=True):
        if layer.carry_state:
            layer.v = v
    return out


def best_steps(length: int, truncations: list[int]) -> int:
    """sqrt(length), rounded up to a multiple of every truncation window but 0."""
    unit = math.lcm(*(k for k in truncations if k))
    return max(1, math.ceil(math.sqrt(length) / unit)) * unit


class CheckpointTime(torch.autograd.Function):
    """(windows, x, initial membranes or None, parameters) -> (outputs, final membranes or None)."""

    @staticmethod
    def forward(ctx, run, x, *tensors):
        ctx.set_materialize_grads(False)
        count = len(run.layers)
        out, final, borders, drawn = run.forward(x, tensors[:count], keep=True)
        ctx.run, ctx.draws = run, len(drawn[0])
        ctx.save_for_backward(x, *chain(*borders, *drawn), *tensors[count:])
        return out, *(v if layer.carry_state else None for v, layer in zip(final, run.layers, strict=True))

    @staticmethod
    def backward(ctx, g_out, *carried):
        if torch.is_grad_enabled():
            raise RuntimeError("checkpoint_time is differentiable once: call backward without create_graph=True")
        run = ctx.run
        x, *rest = ctx.saved_tensors
        rest = iter(rest)
        borders, drawn = ([list(islice(rest, each)) for _ in run.ranges] for each in (len(run.layers), ctx.draws))
        learned = [nn.Parameter(p.detach()) for p in rest]
        needs_x, *needs = ctx.needs_input_grad[1 : 2 + len(run.layers)]
        gx = torch.empty_like(x) if needs_x else None
        with run.prepared(learned):
            for i, (start, stop) in reversed(list(enumerate(run.ranges))):
                part = x[start:stop].detach().requires_grad_(needs_x)
                wanted = [layer.neuron.windows[0] == 0 for layer in run.layers] if i else needs  # truncation cuts
                before = [
                    v if v is None else v.detach().requires_grad_(w) for v, w in zip(borders[i], wanted, strict=True)
                ]
                with torch.enable_grad(), run.autocast(), same_draws(x, drawn[i]):
                    y, after = run.window(part, before)
                arriving = zip((y, *after), (None if g_out is None else g_out[start:stop], *carried), strict=True)
                pairs = [(t, g) for t, g in arriving if g is not None and t.requires_grad]
                if pairs:
                    torch.autograd.backward(*zip(*pairs, strict=True))
                if needs_x:
                    gx[start:stop] = 0 if part.grad is None else part.grad
                carried = [None if v is None else v.grad for v in before]
                del y, after, pairs  # the graph of this window, before there is another
        return None, gx, *carried, *(p.grad for p in learned)
