"""The compiled backends, `cpu` and `cuda`: csrc/ as the extension fastlif._C, or the reason why there is none."""

import importlib

import torch

try:
    extension = importlib.import_module("fastlif._C")  # registers fastlif::native_forward and native_backward
    missing = None
except (ImportError, OSError, RuntimeError) as error:
    extension = None
    missing = f"the compiled extension fastlif._C cannot be loaded ({error}); reinstall with: pip install -e ."
with_cuda = missing is None and torch._C._dispatch_has_kernel_for_dispatch_key("fastlif::native_forward", "CUDA")


class Native:
    """One device type of the extension."""

    def __init__(self, device: str):
        self.device = device

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
        torch.ops.fastlif.native_forward(
            call.x, call.v0, *tensors(call), call.values, (*call.options, call.keep), inner(call),
            call.spikes, call.v, call.state,
        )  # fmt: skip

    def backward(self, call) -> None:
        """Fill call's outputs."""
        torch.ops.fastlif.native_backward(
            call.gs, call.gv, call.x, call.v0, *tensors(call), call.state, call.values,
            (*call.options, call.keep), inner(call), call.gx, *call.totals,
        )  # fmt: skip


def description() -> str:
    """One line for people: what the extension is, or why it is missing."""
    if missing is not None:
        return missing
    cuda = "with" if with_cuda else "without"
    return f"{extension.__file__}, {extension.instruction_set} on the CPU, {cuda} CUDA"


def tensors(call):
    return (None if p is None else p.data for p in call.params)


def inner(call):
    return [1 if p is None else p.inner for p in call.params]


cpu, cuda = Native("cpu"), Native("cuda")
