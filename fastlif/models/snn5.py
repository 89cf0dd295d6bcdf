"""SNN-5: the small network of TET's statistics over many runs (Deng et al. 2022, section 5 and figure 7)."""

from collections.abc import Callable, Sequence

from torch import nn

from ..nn import PerStep
from .convnet import ConvNet
from .network import NEURONS, initialize

LAYERS = (16, (64, 5), "pool", (128, 5), "pool", (256, 5), "pool", 512, "pool")


class SNN5(ConvNet):
    """16C3-64C5-AP2-128C5-AP2-256C5-AP2-512C3-AP2-FC, batch norm after each convolution.

    The text gives this line and CIFAR-10 as its data. What it leaves open is as in `VGGSNN`, whose code is published:
    convolutions that keep the image's size, with a bias, and begin with weights from He's normal distribution; neurons
    of decay 0.5 with a hard reset that fire above the threshold of 1. Args are those of `ConvNet`.
    2,253,098 parameters.

    Shape: x [T, B, C, H, W] -> scores of every step [T, B, classes].
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        neurons: Callable[[], nn.Module] = NEURONS,
        layers: Sequence[int | str | tuple[int, int]] = LAYERS,
        per_step: Callable[..., nn.Module] = PerStep,
        norm_neurons: Callable[[int], nn.Module] | None = None,
        bias: bool = True,
        alpha: float | None = None,
    ):
        super().__init__(shape, classes, neurons, layers, per_step, norm_neurons, bias, alpha)
        initialize(self)
