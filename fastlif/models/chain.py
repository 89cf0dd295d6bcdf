"""Chain: networks without branches whose every layer spikes, pooling and the last layer too."""

import math
from collections.abc import Callable, Sequence

from torch import nn

from ..nn import PerStep
from .convnet import convolutions
from .network import LOCAL, Network, Parts, check


class Chain(Network):
    """Convolutions, average pooling and linear layers, each with neurons: what local truncated BPTT trains in blocks.

    `stages` are the hidden layers, an element for the weights (convolution or linear layer, with batch norm and
    dropout) or the pooling and one for its neurons; `readout` is the last linear layer and its neurons. Local
    truncated BPTT (Guo et al. 2023) counts the hidden layers with weights alone, and `fastlif.models.blocks.split` cuts
    between them. Weights begin as PyTorch's do: the text does not say.

    Args:
        shape: a sample's, (C, H, W).
        classes: number of classes.
        neurons: makes one layer of neurons, [T, B, ...] -> spikes [T, B, ...]. By default the paper's (section 2.1),
            u[t] = 0.8*u[t-1] - 0.3*s[t-1] + I[t], of threshold 0.3 and a rectangular surrogate of width 0.6. Table 1,
            which had the values, is lost. Section 3.4 has tau = 0.8 and theta = 0.3 as its example, by which gradients
            fall to 0.1 to 6e-6 in 10 steps: 0.8^10 and, at the width a = 0.6, (0.8 - 0.3/a)^10. The threshold is a
            choice: equal to theta, the window begins at rest, and two spikes of four fire a pooling neuron at once.
        layers: the channels of each convolution, or (channels, kernel) for another kernel than 3, and "pool" where the
            image is halved. Convolutions keep the image's size. With fewer poolings smaller images can be taken.
        hidden: neurons of each linear layer but the last.
        per_step: wraps modules that know no time, as `fastlif.PerStep` does.
        norm_neurons: makes batch norm and neurons as one layer, norm_neurons(channels), in the place of torch's batch
            norm and `neurons` wherever one follows the other: with `batch_norm`, and without dropout between them.
        bias: whether convolutions and linear layers have one; the paper's equation 1 has none.
        alpha: None, or the threshold-dependent scale of batch norm (see `Parts`).
        batch_norm: whether each layer of weights, the last one too, is followed by batch norm.
        dropout: rate of the dropout that follows each layer of weights but the last, whose currents are the answer; a
            mask for every step and sample, drawn anew (section 3.1). The paper's rate was in table 1: 0 by default.
        width: factor of all hidden channels and neurons, rounded, at least 1 of each.

    Shape: x [T, B, C, H, W] -> spikes [T, B, classes], whose mean over time is the firing rate of each class.

    Raises:
        ValueError: sizes, channels, neurons or classes below 1; an unknown layer; an even kernel; an image too small to
            be halved so often; dropout outside [0, 1); width not positive; alpha not positive, or without batch norm.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        neurons: Callable[[], nn.Module] = LOCAL,
        layers: Sequence[int | str | tuple[int, int]] = (8, "pool", 16, "pool"),
        hidden: Sequence[int] = (64,),
        *,
        per_step: Callable[..., nn.Module] = PerStep,
        norm_neurons: Callable[[int], nn.Module] | None = None,
        bias: bool = False,
        alpha: float | None = None,
        batch_norm: bool = False,
        dropout: float = 0.0,
        width: float = 1.0,
    ):
        check(shape, classes)
        if any(size < 1 for size in hidden):
            raise ValueError(f"hidden must be widths of at least 1, got {tuple(hidden)}")
        layers, hidden = scaled(layers, width), scaled(hidden, width)
        parts = Parts(neurons, per_step, norm_neurons, alpha, batch_norm, dropout)
        stages, size = convolutions(shape, layers, parts, bias, after_pool=lambda: [neurons()])
        for made in hidden:
            stages += parts.dense(size, made, bias)
            size = made
        super().__init__(shape, classes, stages, nn.Sequential(*parts.dense(size, classes, bias, last=True)))


def scaled(layers: Sequence[int | str | tuple[int, int]], width: float) -> list[int | str | tuple[int, int]]:
    """The layers with `width` times the channels or neurons, rounded, at least 1."""
    if not 0 < width < math.inf:
        raise ValueError(f"width must be a positive finite number, got {width}")
    if width == 1:
        return list(layers)

    def size(layer):
        if isinstance(layer, tuple):
            return size(layer[0]), *layer[1:]
        return layer if isinstance(layer, str) else max(1, round(width * layer))

    return [size(layer) for layer in layers]
