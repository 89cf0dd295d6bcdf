"""The backends: what fills an operator's outputs, which one a device gets, and why another cannot run."""

import torch

from ..surrogate import nearest
from . import native, reference, triton

BACKENDS = {"reference": reference, "cpu": native.cpu, "cuda": native.cuda, "triton": triton}
PREFERRED = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}


def reasons(backend: str, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Every reason why `backend` cannot run tensors of this device and dtype; empty if it can."""
    return BACKENDS[backend].reasons(device, dtype)


def check(backend: str | None) -> None:
    """ValueError, with the nearest of them, if `backend` is neither None nor the name of one."""
    if backend is not None and backend not in tuple(BACKENDS):
        raise ValueError(f"unknown backend {backend!r}; {nearest(backend, tuple(BACKENDS))}")


def choose(backend: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """The backend to run: the first of the device's that can, or the forced one, which never falls back."""
    if backend is None:
        candidates = PREFERRED.get(device.type, ("reference",))
        return next(name for name in candidates if not reasons(name, device, dtype))
    check(backend)
    if why := reasons(backend, device, dtype):
        raise RuntimeError(f"backend {backend!r} cannot run this call: {'; '.join(why)}")
    return backend
