"""Random views of pictures on the device they live on: crops, flips, small warps, colours.

Everything is drawn from an explicit generator, so a batch is a pure function of its seed.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class Policy:
    """How far a view may stray from its picture.

    area: the least part of the picture that a crop keeps; aspect: the greatest stretch of its sides;
    shift: movement as a part of the side where nothing is cropped; degrees: rotation; flip: left-right
    mirroring; colour: strength of brightness, contrast and saturation changes.
    """

    area: float = 1.0
    aspect: float = 1.0
    shift: float = 0.0
    degrees: float = 0.0
    flip: bool = False
    colour: float = 0.0


PHOTO = Policy(area=0.3, aspect=1.33, flip=True, colour=0.4, degrees=5.0)
GENTLE_PHOTO = Policy(area=0.65, aspect=1.15, flip=True, colour=0.2)
LAYOUT = Policy(shift=0.03, colour=0.08)  # places, counts and colours must stay true
TEXT = Policy(area=0.9, aspect=1.2, shift=0.04, degrees=6.0, colour=0.3)


def augment(pixels: Tensor, size: int, policy: Policy, generator: Generator) -> Tensor:
    """pixels (b, 3, h, w) uint8 -> random views (b, 3, size, size), float32 in [0, 1]."""
    b = len(pixels)
    grid = F.affine_grid(_warps(b, policy, generator), [b, 3, size, size], align_corners=False)
    views = F.grid_sample(
        pixels.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return _colours(views, policy.colour, generator) if policy.colour else views


def _warps(b: int, policy: Policy, generator: Generator) -> Tensor:
    """Affine maps (b, 2, 3) from view to picture coordinates, both in [-1, 1]."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(b, generator=generator, device=generator.device) * (high - low) + low

    side = uniform(policy.area, 1.0).sqrt()
    stretch = uniform(-1.0, 1.0).mul(torch.tensor(policy.aspect).log().item() / 2).exp()
    width, height = (side * stretch).clamp(max=1.0), (side / stretch).clamp(max=1.0)
    x = uniform(-1.0, 1.0) * (1 - width + policy.shift)
    y = uniform(-1.0, 1.0) * (1 - height + policy.shift)
    mirror = torch.ones_like(width)
    if policy.flip:
        mirror = torch.where(uniform(0.0, 1.0) < 0.5, -1.0, 1.0)
    angle = uniform(-1.0, 1.0) * torch.pi / 180 * policy.degrees
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack(
        [mirror * width * cos, -height * sin, x, mirror * width * sin, height * cos, y], 1
    )
    return rows.view(b, 2, 3)


def _colours(views: Tensor, strength: float, generator: Generator) -> Tensor:
    """Brightness, contrast and saturation, each changed by up to `strength`."""

    def factor() -> Tensor:
        draw = torch.rand(len(views), 1, 1, 1, generator=generator, device=generator.device)
        return 1 + strength * (2 * draw - 1)

    views = views * factor()
    mean = views.mean((1, 2, 3), keepdim=True)
    views = mean + (views - mean) * factor()
    grey = views.mean(1, keepdim=True)
    return (grey + (views - grey) * factor()).clamp(0, 1)
