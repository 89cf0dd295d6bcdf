"""What local training is made of: blocks of layers, and the classifier each has."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from ..models.blocks import split
from ..nn import LIF, PerStep, Stateful, evaluating


class Unit(nn.Module):
    """A block and its classifier: x [T, B, ...] -> (the classifier's spikes [T, B, classes], the block's)."""

    def __init__(self, block: nn.Module, classifier: nn.Module):
        super().__init__()
        self.block, self.classifier = block, classifier

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x: what the block before puts out, [T, B, ...]."""
        spikes = self.block(x)
        return self.classifier(spikes), spikes


class Classifier(nn.Sequential):
    """A linear layer from all features to the classes, and neurons: spikes [T, B, ...] -> spikes [T, B, classes].

    Args:
        features: of a sample at one step.
        classes: number of classes.
        number: of its block; goes into the seed of random weights.
        neurons: makes the layer of neurons.
        seed: None for weights that are learned; else they are random and fixed (section 2.2), see `RandomLinear`.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        number: int = 0,
        neurons: Callable[[], nn.Module] = LIF,
        seed: int | None = None,
    ):
        linear = nn.Linear(features, classes) if seed is None else RandomLinear(features, classes, seed + number)
        super().__init__(PerStep(nn.Flatten(), linear), neurons())


class RandomLinear(nn.Module):
    """A linear layer of random fixed weights that are not stored: drawn from the seed whenever they are needed.

    As `torch.nn.Linear` draws its own: uniform in +-1 / sqrt(features). It has no bias.

    Shape: [..., features] -> [..., outputs].
    """

    def __init__(self, features: int, outputs: int, seed: int):
        super().__init__()
        self.shape, self.seed = (outputs, features), seed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., features]."""
        return _RandomLinear.apply(x, self.shape, self.seed)

    def extra_repr(self) -> str:
        return f"{self.shape[1]}, {self.shape[0]}, seed={self.seed}"


class _RandomLinear(torch.autograd.Function):
    """Keeps nothing for backward."""

    @staticmethod
    def forward(ctx, x, shape, seed):
        ctx.drawn = shape, seed
        return functional.linear(x, weights(shape, seed, x))

    @staticmethod
    def backward(ctx, grad):
        return grad @ weights(*ctx.drawn, grad), None, None


def randomize(module: nn.Module, seed: int) -> None:
    """Linear layers in `module` become `RandomLinear`."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, RandomLinear(child.in_features, child.out_features, seed))
        else:
            randomize(child, seed)


def weights(shape: tuple[int, int], seed: int, like: torch.Tensor) -> torch.Tensor:
    """The same random weights [outputs, features] whenever, drawn on the CPU, with dtype and device of `like`."""
    bound = 1 / math.sqrt(shape[1])
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return ((2 * drawn - 1) * bound).to(like)


def units_of(net: nn.Module, block: int | None, classifiers: Callable[[int, int, int], nn.Module]) -> list[Unit]:
    """`net` in blocks of so many layers with weights, each with a classifier; the last one's is the readout.

    Raises:
        ValueError: net has no stages and readout, or cannot be cut so (see `fastlif.models.blocks.split`); none of its
            neurons are fastlif's.
    """
    if not (isinstance(getattr(net, "stages", None), nn.Sequential) and hasattr(net, "readout")):
        raise ValueError(f"blocks need a network with stages and a readout, as in fastlif.models: {type(net).__name__}")
    if not any(isinstance(module, Stateful) for module in net.modules()):
        raise ValueError("windows need neurons that carry their membrane, fastlif's layers, and the network has none")
    blocks = [net.stages] if block is None else split(net.stages, block)
    like = next(net.parameters())
    with evaluating(net):
        h = torch.zeros(1, 1, *net.sample, dtype=like.dtype, device=like.device)
        features = [(h := one(h)).numel() for one in blocks]
        classes = net.readout(h).shape[-1]
    made = [classifiers(count, classes, number) for number, count in enumerate(features[:-1])]
    return [Unit(one, head) for one, head in zip(blocks, [*(m.to(h) for m in made), net.readout], strict=True)]
