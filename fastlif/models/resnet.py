"""ResNet-19, Spiking-ResNet34 and SEW-ResNet34: the residual networks of TET (Deng et al. 2022, section 5 and A.1)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from ..nn import LIF, PerStep
from .network import NEURONS, Network, Parts, check, initialize

INTEGRATE = partial(LIF, decay=1.0, reset="hard", detach_reset=True)  # SpikingJelly's IFNode, as Fang et al. use it
LAYERS_19 = ((128, 3), (256, 3), (512, 2))
LAYERS_34 = ((64, 3), (128, 4), (256, 6), (512, 3))


class CurrentSum(nn.Module):
    """The block of Zheng et al. 2021: conv, batch norm, neurons, conv, batch norm, plus the shortcut; then neurons.

    The shortcut carries the block's input, spikes, or where the shape changes its 1x1 convolution with batch norm. What
    the last neurons get is a sum, so the two batch norms before it stand alone: each takes the statistics of its own
    summand, which cannot be had from the sum that an operator of batch norm and neurons would see.

    Shape: spikes [T, B, C, H, W] -> spikes [T, B, channels, H / stride, W / stride].
    """

    checkpoint_time_safe = True

    def __init__(self, inputs: int, channels: int, stride: int, parts: Parts, zero_init: bool = False):
        super().__init__()
        first = parts.spiking(conv(inputs, channels, 3, stride))
        if parts.alpha is None and getattr(first[-1], "alpha", None) is not None:
            raise ValueError(
                "norm_neurons has an alpha, and the batch norms before sums have none: give it to the network"
            )
        self.branch = nn.Sequential(*first, parts.current(conv(channels, channels, 3), summands=2, zero=zero_init))
        changes = stride != 1 or inputs != channels
        self.shortcut = parts.current(conv(inputs, channels, 1, stride), summands=2) if changes else nn.Identity()
        self.neurons = parts.neurons()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: spikes, [T, B, C, H, W]."""
        return self.neurons(self.branch(x) + self.shortcut(x))


class SpikeSum(nn.Module):
    """The block of Fang et al. 2021, SEW with ADD: twice conv, batch norm, neurons; then the shortcut is added.

    The shortcut carries the block's input, or where the shape changes the spikes of its 1x1 convolution, batch norm and
    neurons. What comes out are counts, at most one more than came in.

    Shape: spikes or counts [T, B, C, H, W] -> counts [T, B, channels, H / stride, W / stride].
    """

    checkpoint_time_safe = True

    def __init__(self, inputs: int, channels: int, stride: int, parts: Parts, zero_init: bool = False):
        super().__init__()
        self.branch = nn.Sequential(
            *parts.spiking(conv(inputs, channels, 3, stride)), *parts.spiking(conv(channels, channels, 3), zero_init)
        )
        changes = stride != 1 or inputs != channels
        self.shortcut = nn.Sequential(*parts.spiking(conv(inputs, channels, 1, stride))) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: spikes or counts of them, [T, B, C, H, W]."""
        return self.branch(x) + self.shortcut(x)


def conv(inputs: int, outputs: int, kernel: int, stride: int | tuple[int, int] = 1) -> nn.Conv2d:
    """A convolution without bias that leaves 1 / stride of the image's size, rounded up."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def blocks(block: type[nn.Module], inputs: int, layers, parts: Parts, zero_init: bool) -> list[nn.Module]:
    """(channels, number of blocks) for each group in `layers`; the first block of every group but the first halves."""
    made = []
    for group, (channels, count) in enumerate(layers):
        for i in range(count):
            made.append(block(inputs, channels, 2 if group and not i else 1, parts, zero_init))
            inputs = channels
    return made


def check_layers(layers: Sequence[tuple[int, int]], **others: int) -> None:
    """ValueError unless every group, and whatever else is given by name, has channels and blocks, each at least 1."""
    groups = [group if isinstance(group, (tuple, list)) else () for group in layers]
    if not groups or any(len(group) != 2 or min(group) < 1 for group in groups):
        raise ValueError(f"layers must be (channels, number of blocks) for each group, each at least 1, got {layers}")
    for name, value in others.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


class ResNet19(Network):
    """ResNet-19 (Zheng et al. 2021), TET's network for CIFAR-10 and CIFAR-100: table 3, figures 4 to 6 and 8, table 4.

    A 3x3 convolution of 64 channels, 3 blocks of 128 channels, 3 of 256 and 2 of 512, the image halved before the
    latter two groups, all with batch norm (`CurrentSum`); the mean over the image; 256 neurons on a linear layer; a
    linear layer to the classes. The text names the network alone. The published code decides: the first
    convolution's 64 channels, no batch norm on the 256 neurons, no bias before batch norm, PyTorch's initial weights,
    the convolution of a constant input within time. 12,630,858 parameters for 10 classes, 12,653,988 for 100.

    With those initial weights the 256 neurons are silent at first, at membranes that TET's triangle still reaches: a
    narrower surrogate may leave all layers before them without gradient.

    Args:
        shape, classes, neurons, per_step, norm_neurons: as for `ConvNet`; by default 32x32 colours, 10 classes, and
            neurons of decay 0.5 with a hard reset that fire above the threshold of 1 (section 3.1).
        layers: (channels, number of blocks) for each group.
        alpha: None for plain batch norm, as in the published code, or the threshold-dependent scale (see `Parts`).
        zero_init: the last batch norm of each block begins with weight 0 (A.3 mentions it for ImageNet).
        stem: channels of the first convolution.
        hidden: neurons between the two linear layers.

    Shape: x [T, B, C, H, W] -> scores of every step [T, B, classes]; H and W may be others than in `shape`.

    Raises:
        ValueError: sizes, channels, blocks or classes below 1; alpha not positive, or given to batch norm too.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 32, 32),
        classes: int = 10,
        neurons: Callable[[], nn.Module] = NEURONS,
        layers: Sequence[tuple[int, int]] = LAYERS_19,
        per_step: Callable[..., nn.Module] = PerStep,
        norm_neurons: Callable[[int], nn.Module] | None = None,
        alpha: float | None = None,
        zero_init: bool = False,
        stem: int = 64,
        hidden: int = 256,
    ):
        check(shape, classes)
        check_layers(layers, stem=stem, hidden=hidden)
        parts = Parts(neurons, per_step, norm_neurons, alpha)
        stages = parts.spiking(conv(shape[0], stem, 3)) + blocks(CurrentSum, stem, layers, parts, zero_init)
        readout = nn.Sequential(
            per_step(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(layers[-1][0], hidden)),
            neurons(),
            per_step(nn.Linear(hidden, classes)),
        )
        super().__init__(shape, classes, stages, readout, any_size=True)


class SpikingResNet34(Network):
    """Spiking-ResNet34 (Zheng et al. 2021), TET's network for ImageNet (table 3, section A.1).

    ResNet-34 with neurons in the place of ReLU: a 7x7 convolution of 64 channels with stride 2, max pooling, 3, 4, 6
    and 3 blocks of 64, 128, 256 and 512 channels (`CurrentSum`), the mean over the image, and a linear layer. The text
    names the network alone, and no code is published for it. The first layers are as in Fang et al.'s code for the
    network of this name, and so is the initialization (He's normal distribution); their first convolution and batch
    norm run once for an image and ours at every step, which gives the same. 21,797,672 parameters, as ResNet-34.

    Args:
        shape, classes, neurons, per_step, norm_neurons: as for `ConvNet`; by default 224x224 colours, 1000 classes, and
            neurons of decay 0.5 with a hard reset that fire above the threshold of 1 (section 3.1).
        layers, alpha, zero_init, stem: as for `ResNet19`.

    Shape: x [T, B, C, H, W] -> scores of every step [T, B, classes]; H and W may be others than in `shape`.

    Raises:
        ValueError: as `ResNet19`.
    """

    block: type[nn.Module] = CurrentSum

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 224, 224),
        classes: int = 1000,
        neurons: Callable[[], nn.Module] = NEURONS,
        layers: Sequence[tuple[int, int]] = LAYERS_34,
        per_step: Callable[..., nn.Module] = PerStep,
        norm_neurons: Callable[[int], nn.Module] | None = None,
        alpha: float | None = None,
        zero_init: bool = False,
        stem: int = 64,
    ):
        check(shape, classes)
        check_layers(layers, stem=stem)
        parts = Parts(neurons, per_step, norm_neurons, alpha)
        stages = [*parts.spiking(conv(shape[0], stem, 7, 2)), per_step(nn.MaxPool2d(3, 2, 1))]
        stages += blocks(self.block, stem, layers, parts, zero_init)
        readout = per_step(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(layers[-1][0], classes))
        super().__init__(shape, classes, stages, readout, any_size=True)
        initialize(self)


class SEWResNet34(SpikingResNet34):
    """SEW-ResNet34 (Fang et al. 2021), TET's other network for ImageNet (table 3, section A.1).

    As `SpikingResNet34`, with spikes added up behind the neurons (`SpikeSum`), so that every batch norm is followed by
    neurons, and integrate-and-fire neurons (section 5.2). The text leaves open which: as in Fang et al.'s code they
    fire at the threshold of 1 and are reset to 0, the reset without gradient; the connection is ADD. The surrogate is
    TET's triangle. 21,797,672 parameters.

    Args, shape and errors are those of `SpikingResNet34`.
    """

    block = SpikeSum

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 224, 224),
        classes: int = 1000,
        neurons: Callable[[], nn.Module] = INTEGRATE,
        layers: Sequence[tuple[int, int]] = LAYERS_34,
        per_step: Callable[..., nn.Module] = PerStep,
        norm_neurons: Callable[[int], nn.Module] | None = None,
        alpha: float | None = None,
        zero_init: bool = False,
        stem: int = 64,
    ):
        super().__init__(shape, classes, neurons, layers, per_step, norm_neurons, alpha, zero_init, stem)
