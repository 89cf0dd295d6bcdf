"""Packing: a mode in which convolution, linear and pooling keep known spikes as bits, and pass on what is known."""

from math import prod

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from . import remake, spikes
from .hooks import spikes_as_bits
from .layers import AveragePool, Convolution, Linear, MaximumPool, plain


class Packing(TorchFunctionMode):
    """Functions in `HANDLERS` are run by their handlers.

    With `hooks` only where they are the innermost: what checkpoint() inside them runs again runs without this mode.
    """

    def __init__(self, hooks: saved_tensors_hooks | None = None):
        super().__init__()
        self.hooks = hooks
        if torch.compiler.is_compiling():
            torch._dynamo.comptime.comptime(traced_change)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Any function of PyTorch."""
        kwargs = kwargs or {}
        if self.hooks is not None and innermost() is not self.hooks.pack_hook:
            return func(*args, **kwargs)
        functions, handler = BY_NAME.get(getattr(func, "__name__", ""), ((), None))
        return handler(func, *args, **kwargs) if func in functions else func(*args, **kwargs)


def traced_change(context) -> None:
    """Note for Dynamo that the stack of modes changes.

    It would itself, at the first mode, but not inside checkpoint(), where it allows no change to what is outside,
    though this one is taken back.
    """
    frame = context._i_will_not_complain_if_bc_breaks_InstructionTranslator()
    stack, effects = torch._dynamo.variables.torch_function.TorchFunctionModeStackVariable, frame.output.side_effects
    if stack.stack_value_singleton not in effects:
        change = stack(torch._guards.Source(), frame.symbolic_torch_function_state.mode_stack)
        effects.track_mutable(stack.stack_value_singleton, change)
        change.mutation_type.is_modified = True


def innermost():
    """The pack hook that runs."""
    pair = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return None if pair is None else pair[0]


def serves(x, *params) -> bool:
    """Whether x is known, and plain autograd would keep it."""
    return torch.is_grad_enabled() and plain(x, *params) and spikes.known(x) is not None


def recomputes() -> bool:
    """Whether outputs of convolutions are to be made again, not kept."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and getattr(innermost(), "recompute", False)


def any_needs(*tensors) -> bool:
    """Whether one of them needs a gradient."""
    return any(t is not None and t.requires_grad for t in tensors)


def cast(x, weight, bias):
    """As autocast would; a compiler has no cache of casts, so these are the same."""
    kind = x.device.type
    if not autocasting(kind) or x.dtype == torch.float64:
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    if x.dtype != dtype:
        x = same(torch.Tensor.to, x, dtype)
    return x, weight.to(dtype), None if bias is None else bias.to(dtype)


def autocasts(x) -> bool:
    """Whether eager autocast would cast the weights, keeping the cast ones for their next use: only itself can."""
    return not torch.compiler.is_compiling() and autocasting(x.device.type)


def autocasting(kind: str) -> bool:
    """Whether autocast is on for devices of this kind; some have none."""
    return kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)


def by_hooks(func, *args, **kwargs):
    """PyTorch's own function, what it keeps packed."""
    if not torch._C._autograd._saved_tensors_hooks_is_enabled():
        return func(*args, **kwargs)
    with spikes_as_bits():
        return func(*args, **kwargs)


def convolution(func, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """torch.conv1d, conv2d, conv3d."""
    if recomputes() and plain(input, weight, bias) and any_needs(input, weight, bias):
        y = convolution_kept(func, input, weight, bias, stride, padding, dilation, groups)
        return remake.note(y, input, func, weight, bias, stride, padding, dilation, groups)
    return convolution_kept(func, input, weight, bias, stride, padding, dilation, groups)


def convolution_kept(func, input, weight, bias, stride, padding, dilation, groups):
    """A convolution, its input kept as codes."""
    d = weight.dim() - 2
    if not (serves(input, weight, bias) and input.dim() == d + 2 and any_needs(input, weight, bias)):
        return func(input, weight, bias, stride, padding, dilation, groups)
    if autocasts(input):
        return by_hooks(func, input, weight, bias, stride, padding, dilation, groups)
    padding = in_numbers(padding, weight.shape[2:], each(d, stride), each(d, dilation))
    if isinstance(padding, str):
        return func(input, weight, bias, stride, padding, dilation, groups)
    x, weight, bias = cast(input, weight, bias)
    options = [list(each(d, option)) for option in (stride, padding, dilation)]
    codes, recipe = spikes.encode(x)
    return Convolution.apply(x, codes if weight.requires_grad else None, recipe, weight, bias, *options, groups)


def in_numbers(padding, kernel, stride, dilation):
    """Padding as PyTorch has it in numbers: "valid", and "same" if it is the same on both sides."""
    total = [n * (size - 1) for n, size in zip(dilation, kernel, strict=True)]
    if padding == "same" and set(stride) == {1} and not any(n % 2 for n in total):
        return [n // 2 for n in total]
    return 0 if padding == "valid" else padding


def linear(func, input, weight, bias=None):
    """F.linear."""
    if not (serves(input, weight, bias) and weight.requires_grad and input.dim() > 1):
        return func(input, weight, bias)
    if autocasts(input):
        return by_hooks(func, input, weight, bias)
    x, weight, bias = cast(input, weight, bias)
    return Linear.apply(x, *spikes.encode(x), weight, bias)


def average_pool(d):
    """The handler of avg_pool{d}d."""

    def pool(
        func, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ):
        kernel = each(d, kernel_size)
        options = (
            list(kernel), list(each(d, stride) if stride is not None and stride != () else kernel),
            list(each(d, padding)), ceil_mode, count_include_pad, divisor_override,
        )  # fmt: skip
        kind = spikes.known(input) if plain(input) else None
        if kind is None:
            extra = () if d == 1 else (divisor_override,)
            return func(input, kernel_size, stride, padding, ceil_mode, count_include_pad, *extra)
        if torch.is_grad_enabled() and input.requires_grad and input.dim() == d + 2:
            y = on_image(d, input, AveragePool.apply, options)
        else:
            extra = () if d == 1 else (divisor_override,)
            y = func(input, kernel_size, options[1], padding, ceil_mode, count_include_pad, *extra)
        everywhere = divisor_override or (not ceil_mode and (count_include_pad or not any(options[2])))
        if everywhere:
            taps = prod(kernel)
            found = spikes.Kind(kind.limit * taps, kind.divisor * (divisor_override or taps))
            exact = kind.divisor == 1 and not torch.compiler.is_compiling()  # a compiler multiplies by 1 / divisor
            if found.fits and found.divisor > 0 and (exact or found.power_of_two):
                y = spikes.remember(y, found)
        return y

    return pool


def max_pool(d):
    """The handler of max_pool{d}d."""

    def pool(func, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        kernel = each(d, kernel_size)
        strides = each(d, stride) if stride is not None and stride != () else kernel
        options = list(kernel), list(strides), list(each(d, padding)), list(each(d, dilation)), ceil_mode
        kind = spikes.known(input) if plain(input) and not return_indices else None
        if kind is not None and torch.is_grad_enabled() and input.requires_grad and input.dim() == d + 2:
            y = on_image(d, input, lambda x, *rest: MaximumPool.apply(x, *spikes.encode(x), *rest), options)
        else:
            extra = {"return_indices": True} if return_indices else {}
            y = func(input, kernel_size, strides, padding, dilation, ceil_mode, **extra)
        if kind is not None and all(n == 1 for n in options[3]):
            y = spikes.remember(y, kind)
        return y

    return pool


def on_image(d, x, apply, options):
    """In one dimension as PyTorch does it: on images of height 1."""
    if d > 1:
        return apply(x, *options)
    wide = [[neutral, *option] if isinstance(option, list) else option
            for option, neutral in zip(options, (1, 1, 0, 1), strict=False)]  # fmt: skip
    return apply(x.unsqueeze(-2), *wide, *options[len(wide) :]).squeeze(-2)


def add(func, input, other, *args, **kwargs):
    """Sums of spikes are counts."""
    a, b = spikes.known(input), spikes.known(other)
    y = func(input, other, *args, **kwargs)
    if a and b and not args and not kwargs and input.dtype == other.dtype and input.shape == other.shape:
        total = spikes.Kind(a.limit + b.limit, a.divisor)
        if a.divisor == b.divisor and total.power_of_two and total.fits:
            y = spikes.remember(y, total)
    return y


def same(func, input, *args, **kwargs):
    """Functions that may copy: all of x's values in other memory, or a view, of which as much is known as of x."""
    kind = spikes.known(input)
    y = func(input, *args, **kwargs)
    if kind is not None and spikes.known(y) is None and (y.dtype == input.dtype or exact_in(y.dtype, kind)):
        y = spikes.remember(y, kind)
    return y


def unflatten(func, *args, **kwargs):
    """A compiler cannot call the method from outside of its class."""
    return torch.unflatten(*args, **kwargs)


def exact_in(dtype, kind):
    """Whether another dtype holds the same values."""
    return kind.power_of_two and dtype.is_floating_point and dtype.itemsize > 1


def dropout(func, input, p=0.5, training=True, inplace=False):
    """The identity, in evaluation."""
    if training and p > 0:
        return func(input, p, training, inplace)
    return same(lambda x: func(x, p, training, inplace), input)


def each(d, option):
    """A number for every dimension."""
    option = tuple(option) if isinstance(option, (tuple, list)) else (option,)
    return option * d if len(option) == 1 else option


T = torch.Tensor
CASTS = T.to, T.float, T.double, T.half, T.bfloat16
HANDLERS = (
    (same, (T.flatten, T.reshape, T.contiguous, T.clone, torch.flatten, torch.reshape, torch.clone, *CASTS)),
    (unflatten, (T.unflatten,)),
    (add, (T.add, T.__add__, T.__radd__, T.add_, T.__iadd__, torch.add)),
    (convolution, (torch.conv1d, torch.conv2d, torch.conv3d)),
    (linear, (F.linear,)),
    (dropout, (F.dropout,)),
    *((average_pool(d), (getattr(F, f"avg_pool{d}d"),)) for d in (1, 2, 3)),
    *((max_pool(d), tuple(getattr(where, f"max_pool{d}d") for where in (F, torch))) for d in (1, 2, 3)),
)
BY_NAME = {  # Dynamo finds strings in a dictionary, and not always functions
    name: (tuple(f for f in functions if f.__name__ == name), handler)
    for handler, functions in HANDLERS
    for name in {f.__name__ for f in functions}
}
