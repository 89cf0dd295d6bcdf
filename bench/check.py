"""The check before timing: a contender that computes something else than fastlif's reference is not timed."""

from dataclasses import dataclass

import torch

import fastlif

EXACT, COMPACT = 1e-4, 2e-2  # allowed gradient error, norm of the difference over norm
FLIPS = 1e-4  # share of differing spikes; contenders that divide or fuse round differently
HALF = 1e-2  # gradients in bfloat16 and float16: three digits


@dataclass(frozen=True)
class Difference:
    """`flips`: share of differing spikes. `gradient`: norm of the difference over norm, of neurons without flips."""

    flips: float
    gradient: float

    def refusal(self, tolerance: float, dtype: torch.dtype, flips: float = FLIPS) -> str | None:
        """Why these results are not equal enough to be timed, or None."""
        if dtype.itemsize < 4:
            tolerance = max(tolerance, HALF)
        reasons = []
        if not self.flips <= flips:
            reasons.append(f"{self.flips:.2g} of its spikes differ (allowed {flips:.2g})")
        if not self.gradient <= tolerance:
            reasons.append(f"its gradient is off by {self.gradient:.2g} (allowed {tolerance:.2g})")
        return f"computes something else: {'; '.join(reasons)}" if reasons else None


def reference(form: dict, x: torch.Tensor, gs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(spikes, dL/dx) of the neuron by the reference backend."""
    leaf = x.detach().requires_grad_()
    spikes, _ = fastlif.lif(leaf, **form, backend="reference")
    return spikes.detach(), torch.autograd.grad(spikes, leaf, gs)[0]


def compare(results: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> Difference:
    """How far (spikes, dL/dx) are from the expected ones, all [T, N]."""
    (spikes, gx), (right_spikes, right_gx) = results, expected
    if spikes.shape != right_spikes.shape or gx.shape != right_gx.shape:
        return Difference(1.0, float("inf"))
    agree = spikes == right_spikes
    steady = agree.all(0)
    off = torch.where(steady, gx.float() - right_gx.float(), 0).norm()
    return Difference(
        1 - agree.double().mean().item(),
        (off / torch.where(steady, right_gx.float(), 0).norm().clamp(min=torch.finfo(torch.float32).tiny)).item(),
    )


def distance(some: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """Norm of the difference over norm, of all tensors together; infinite where their shapes differ."""
    if [t.shape for t in some] != [t.shape for t in right]:
        return float("inf")
    off = sum((a.double() - b.double()).square().sum() for a, b in zip(some, right, strict=True))
    norm = sum(b.double().square().sum() for b in right)
    return (off / norm.clamp(min=torch.finfo(torch.float64).tiny)).sqrt().item()
