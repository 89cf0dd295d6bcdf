"""What fastlif.lif says about arguments that it cannot take: one exception, before anything is changed."""

import torch
from torch.autograd import forward_ad

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def refuse_transforms(*tensors: torch.Tensor | None) -> None:
    """No vmap, no forward mode: without this they would run, and give wrong tangents in silence."""
    if torch.compiler.is_compiling():
        return
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise RuntimeError(
            "fastlif.lif cannot run inside torch.func transforms (vmap, jvp, grad, ...): it has reverse-mode gradients "
            "through torch.autograd alone. In place of vmap, give x another dimension after time"
        )
    if forward_ad._current_level >= 0:
        for tensor in tensors:
            if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
                raise RuntimeError("fastlif.lif has no forward-mode derivative: use backward() or torch.autograd.grad")


def check_x(x: torch.Tensor) -> None:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a tensor [T, ...], got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(f"x must be float64, float32, bfloat16 or float16, got {x.dtype}")
    check_strided("x", x)
    if x.dim() == 0:
        raise ValueError("x must have a time axis, [T, ...], got a tensor without dimensions")


def check_strided(name: str, tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_nested:
        layout = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
        raise TypeError(f"{name} must be a dense (strided) tensor, got {layout}")


def check_v0(v0: torch.Tensor, x: torch.Tensor, compute: torch.dtype) -> None:
    if not isinstance(v0, torch.Tensor):
        raise TypeError(f"v0 must be a tensor of the shape of one step of x or None, got {type(v0).__name__}")
    check_strided("v0", v0)
    if v0.shape != x.shape[1:]:
        raise ValueError(f"v0 must have the shape of one step of x, {list(x.shape[1:])}, got {list(v0.shape)}")
    if v0.dtype != compute:
        raise TypeError(f"v0 must be {compute} for x of {x.dtype}, got {v0.dtype}")
    if v0.device != x.device:
        raise ValueError(f"v0 must be on x's device, {x.device}, got {v0.device}")


def check_number(name: str, number: float | None) -> None:
    if number is None:
        raise TypeError(f"{name} must be a number or a tensor, got None")


def check_param(name: str, p: torch.Tensor, x: torch.Tensor, compute: torch.dtype) -> torch.Tensor:
    """p in the membrane's dtype. Its values are not checked: that would wait for the device."""
    step = x.shape[1:]
    check_strided(name, p)
    if not p.dtype.is_floating_point:
        raise TypeError(f"{name} must be a number or a floating-point tensor, got {p.dtype}")
    if p.device != x.device:
        raise ValueError(f"{name} must be on x's device, {x.device}, got {p.device}")
    lined_up = zip(reversed(p.shape), reversed(step), strict=False)
    if p.dim() > len(step) or any(own != 1 and own != allowed for own, allowed in lined_up):
        raise ValueError(f"{name} must broadcast against one step of x, {list(step)}, got {list(p.shape)}")
    return p.to(compute)


def dense_steps(x: torch.Tensor) -> bool:
    """Whether every step x[t] covers its memory without gaps or overlaps, in some order of dimensions."""
    if x.shape[0] > 0 and x.is_contiguous():
        return True
    sizes = [(stride, size) for stride, size in zip(x.stride()[1:], x.shape[1:], strict=True) if size != 1]
    expected = 1
    while sizes:  # no sorting: Dynamo cannot sort symbolic strides
        inner = [i for i, (stride, _) in enumerate(sizes) if stride == expected]
        if not inner:
            return False
        expected *= sizes.pop(inner[0])[1]
    return x.stride(0) == 0 or x.stride(0) >= expected or x.shape[0] <= 1


def check_norm(y: torch.Tensor, *of_channels: torch.Tensor | None) -> None:
    """y [T, B, C, ...] and what there is of running mean and variance, weight and bias, each [C]."""
    if y.dim() < 3:
        raise ValueError(f"batch norm needs y [T, B, C, ...], got {list(y.shape)}")
    for name, p in zip(("running_mean", "running_var", "weight", "bias"), of_channels, strict=True):
        if p is None:
            continue
        if not isinstance(p, torch.Tensor) or p.shape != y.shape[2:3]:
            got = list(p.shape) if isinstance(p, torch.Tensor) else type(p).__name__
            raise ValueError(f"{name} must be one number for each of {y.shape[2]} channels, got {got}")
        if p.device != y.device:
            raise ValueError(f"{name} must be on y's device, {y.device}, got {p.device}")
    if (of_channels[0] is None) != (of_channels[1] is None):
        raise ValueError("running_mean and running_var go together: give both or none")
