"""Small random changes that a label survives."""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional


def jitter(
    images: torch.Tensor, generator: torch.Generator, degrees: float = 10.0, scale: float = 0.1, shift: float = 1.0
) -> torch.Tensor:
    """Turn, scale and move every image a little, bilinearly; what comes in from outside is 0.

    Args:
        images: [B, C, H, W], on the CPU.
        generator: source of the random numbers.
        degrees, scale, shift: largest rotation in degrees, relative change of size, and move in pixels.
    """
    turn, size, dx, dy = torch.rand(4, len(images), generator=generator) * 2 - 1
    turn, size = turn * math.radians(degrees), 1 + size * scale
    cos, sin = torch.cos(turn) * size, torch.sin(turn) * size
    height, width = images.shape[-2:]
    dx, dy = dx * shift * 2 / width, dy * shift * 2 / height
    affine = torch.stack([cos, -sin, dx, sin, cos, dy], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


@dataclass(frozen=True)
class Roll:
    """Roll frames [..., H, W] by up to `pixels` each way, and mirror half of them where `flip`."""

    pixels: int
    flip: bool = False

    def __call__(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        down, right = torch.randint(-self.pixels, self.pixels + 1, (2,), generator=generator).tolist()
        if self.flip and torch.rand((), generator=generator) < 0.5:
            frames = frames.flip(-1)
        return frames.roll((down, right), (-2, -1))
