"""Config: every option of a training run, checked before anything is done."""

from dataclasses import dataclass

import torch

from ..data import DATA
from ..models import MODELS
from ..neuron import Neuron
from ..surrogate import nearest

METHODS = ("bptt", "tet")
NEURON = ("decay", "threshold", "reset", "detach_reset", "surrogate", "state")


@dataclass(frozen=True)
class Config:
    """The options of `fastlif train`, under the same names."""

    method: str = "bptt"
    model: str = "convnet"
    data: str = "digits"
    steps: int = 6
    epochs: int = 80
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.1
    lam: float = 0.05
    seed: int = 0
    device: str = "auto"
    decay: float = 0.5
    threshold: float = 1.0
    reset: str = "soft"
    detach_reset: bool = True
    surrogate: str = "rectangle"
    state: str = "exact"

    def __post_init__(self):
        for name, known in (("method", METHODS), ("model", MODELS), ("data", DATA)):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; {nearest(getattr(self, name), known)}")
        for name in ("steps", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be a positive finite number, got {self.lr}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay must be a finite number, at least 0, got {self.weight_decay}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam must be in [0, 1], got {self.lam}")
        Neuron(**self.neuron)
        self.torch_device()

    @property
    def neuron(self) -> dict[str, object]:
        """The options of a layer of neurons."""
        return {name: getattr(self, name) for name in NEURON}

    def torch_device(self) -> torch.device:
        """The device to train on; "auto" is a GPU if there is one."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"device {self.device!r} cannot be used here: {str(error).splitlines()[0]}") from None
        return device
