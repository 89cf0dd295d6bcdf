"""ConvNet: spiking convolutional networks without branches, a small one for small images by default."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..nn import LIF, PerStep


class ConvNet(nn.Module):
    """Convolutions 3x3, each with batch norm and neurons, and average pooling between them; then a linear readout.

    Args:
        shape: a sample's, (C, H, W).
        classes: number of classes.
        neurons: makes one layer of neurons, [T, B, ...] -> spikes [T, B, ...]; `fastlif.LIF` by default.
        layers: the channels of each convolution, and "pool" where the image is halved.
        per_step: wraps modules that know no time, as `fastlif.PerStep` does.
        norm_neurons: makes batch norm and neurons as one layer, norm_neurons(channels): currents [T, B, C, H, W] ->
            spikes; in the place of `torch.nn.BatchNorm2d` and `neurons` where given.
        bias: whether the convolutions have one.

    Shape: x [T, B, C, H, W] -> scores of every step [T, B, classes]: the readout has no membrane, their mean decides.
    """

    checkpoint_time_safe = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        neurons: Callable[[], nn.Module] = LIF,
        layers: Sequence[int | str] = (32, "pool", 64, "pool", 64),
        per_step: Callable[..., nn.Module] = PerStep,
        norm_neurons: Callable[[int], nn.Module] | None = None,
        bias: bool = False,
    ):
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        channels, height, width = shape
        stages = []
        for layer in layers:
            if layer == "pool":
                height, width = height // 2, width // 2
                stages.append(per_step(nn.AvgPool2d(2)))
                continue
            conv = nn.Conv2d(channels, layer, 3, padding=1, bias=bias)
            if norm_neurons is None:
                stages += [per_step(conv, nn.BatchNorm2d(layer)), neurons()]
            else:
                stages += [per_step(conv), norm_neurons(layer)]
            channels = layer
        if height * width == 0:
            raise ValueError(f"images of {shape[1]}x{shape[2]} cannot be halved {list(layers).count('pool')} times")
        self.stages = nn.Sequential(*stages)
        self.readout = per_step(nn.Flatten(), nn.Linear(channels * height * width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, B, C, H, W] -> [T, B, classes]."""
        return self.readout(self.stages(x))
