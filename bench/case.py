"""Case: one workload of the layer benchmark, and the data that every contender gets in it."""

from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch

from fastlif import Rectangle, Triangle

SURROGATES = {"triangle": Triangle(1.0), "rectangle": Rectangle(1.0)}


class Data(NamedTuple):
    """What every contender gets, each [T, N]: the input, the gradient of the spikes, memory for spikes and dL/dx."""

    x: torch.Tensor
    gs: torch.Tensor
    spikes: torch.Tensor
    gx: torch.Tensor


@dataclass(frozen=True)
class Case:
    """One layer of `neurons` neurons over `steps` steps; decay 0.5 and threshold 1, where all formulas round alike."""

    steps: int
    neurons: int
    dtype: str = "float32"
    reset: str = "soft"
    device: str = "cpu"

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def neuron_steps(self) -> int:
        return self.steps * self.neurons

    @property
    def tensor_bytes(self) -> int:
        """Bytes of x."""
        return self.neuron_steps * self.torch_dtype.itemsize

    @property
    def title(self) -> str:
        return f"T={self.steps}, {self.neurons:,} neurons, {self.dtype}, {self.reset} reset, {self.device}"

    def moved_bytes(self, each: float | None) -> float | None:
        """Bytes a neuron-step that must move: `each`, and the final membrane, 4 bytes a neuron, which is an output."""
        return None if each is None else each + 4 / max(self.steps, 1)

    def form(self, surrogate: str = "triangle") -> dict:
        """The neuron of this case, as options of fastlif.lif."""
        neuron = {"decay": 0.5, "gain": 1.0, "threshold": 1.0, "reset": self.reset}
        return neuron | {"surrogate": SURROGATES[surrogate]}

    def part(self, neuron_steps: int) -> "Case":
        """The same with as many neurons as make at most so many neuron-steps."""
        return replace(self, neurons=min(self.neurons, max(neuron_steps // self.steps, 1)))

    def inputs(self) -> Data:
        """Normal numbers, the same in every run; about a fifth spike."""
        generator = torch.Generator(self.device).manual_seed(0)
        shape = (self.steps, self.neurons)
        x, gs = (torch.randn(shape, generator=generator, device=self.device).to(self.torch_dtype) for _ in range(2))
        return Data(x, gs, torch.empty_like(x), torch.empty_like(x))

    def as_dict(self) -> dict:
        return asdict(self)
