"""VGGSNN: the network of TET's experiments on event data (Deng et al. 2022, section 5)."""

from collections.abc import Callable, Sequence

from torch import nn

from ..nn import PerStep
from .convnet import ConvNet
from .network import NEURONS, initialize

LAYERS = (64, 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


class VGGSNN(ConvNet):
    """64C3-128C3-AP2-256C3-256C3-AP2-512C3-512C3-AP2-512C3-512C3-AP2-FC, batch norm after each convolution.

    As in the published code the convolutions have a bias, though batch norm takes it out again, and begin with weights
    from He's normal distribution. Args are those of `ConvNet`, by default as the paper uses them: 48x48 events of two
    polarities, 10 classes, and neurons of decay 0.5 with a hard reset that fire above the threshold of 1 (section 3.1).
    9,271,498 parameters.

    Shape: x [T, B, C, H, W] -> scores of every step [T, B, classes].
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (2, 48, 48),
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
