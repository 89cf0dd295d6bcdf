"""The compiled backends, `cpu` and `cuda`: csrc/ as the extension fastlif._C, or the reason why there is none."""

import importlib.util

import torch

NEWEST = "native_statistics"  # of the operators: an extension without it is an older one
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # numbered as in csrc/run.h


def load() -> tuple[str | None, str | None]:
    """(the extension's path, why it is missing). Loading it registers the operators fastlif::native_... and others."""
    try:
        found = importlib.util.find_spec("fastlif._C")
        if found is None:
            raise ImportError("it has not been built")
        torch.ops.load_library(found.origin)
        if not hasattr(torch.ops.fastlif, NEWEST):
            raise ImportError("it is not of this version of fastlif")
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"the compiled extension fastlif._C cannot be loaded ({error}); reinstall with: pip install -e ."
    return found.origin, None


path, missing = load()
with_cuda = missing is None and torch._C._dispatch_has_kernel_for_dispatch_key("fastlif::native_forward", "CUDA")


def serves(device: torch.device) -> bool:
    """Whether the extension has kernels for tensors of `device`."""
    return missing is None and (device.type == "cpu" or (device.type == "cuda" and with_cuda))


class Native:
    """One device type of the extension, whose operators are in torch.ops under the name `library`."""

    def __init__(self, device: str, library: str = "fastlif"):
        self.device = device
        self.operators = getattr(torch.ops, library)

    def reasons(self, device: torch.device, dtype: torch.dtype) -> list[str]:
        """Why the extension cannot run tensors of `device`."""
        found = [] if missing is None else [missing]
        if device.type != self.device:
            found.append(f"it needs tensors on {self.device}, got {device}")
        if missing is None and self.device == "cuda" and not with_cuda:
            found.append("the extension was built without CUDA (needs nvcc of torch's CUDA version; FASTLIF_CUDA=1)")
        return found

    def forward(self, call) -> None:
        """Fill call's outputs."""
        self.operators.native_forward(
            call.x, call.v0, *tensors(call), *affine(call), call.values, (*call.options, call.keep), inner(call),
            call.spikes, call.v, call.state, call.bits,
        )  # fmt: skip

    def backward(self, call) -> None:
        """Fill call's outputs."""
        self.operators.native_backward(
            call.gs, call.gv, call.x, call.v0, *tensors(call), *affine(call),
            *(data(p) for p in (call.mean, call.slope, call.offset)), call.state, call.bits,
            [call.steps, call.layout.neurons], DTYPES.index(call.layout.x_dtype), call.values,
            (*call.options, call.keep), inner(call), call.gx, *call.totals,
            *call.at_once,
        )  # fmt: skip


def description() -> str:
    """One line for people: what the extension is, or why it is missing."""
    if missing is not None:
        return missing
    cuda = "with" if with_cuda else "without"
    return f"{path}, {torch.ops.fastlif.instruction_set()} on the CPU, {cuda} CUDA"


def data(p):
    return None if p is None else p.data


def tensors(call):
    return (data(p) for p in call.params)


def affine(call):
    return data(call.scale), data(call.shift)


def inner(call):
    return [1 if p is None else p.inner for p in (*call.params, call.scale)]


cpu, cuda = Native("cpu"), Native("cuda")
