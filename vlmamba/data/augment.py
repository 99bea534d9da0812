"""Random views of pictures on the device they live on: crops, flips, warps, colours, and two pictures in one.

Everything random comes in as uniform draws, so a batch is a pure function of its seed, and each function is one
graph that `torch.compile` can fuse.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 23  # uniform numbers that `view` takes for a picture
GREY = 127 / 255  # what the processor pads with


@dataclass(frozen=True)
class Policy:
    """How far a view may stray from its picture.

    area: the least part of the picture that a crop keeps; aspect: the greatest stretch of its sides;
    shift: movement as a part of the side where nothing is cropped; degrees: rotation; shear; flip: left-right
    mirroring; bars: the share of views that show a wide or high crop between grey bars, as the processor pads;
    colour: strength of brightness, contrast, saturation and tint; grey: the share without colour; soft: the share
    that is blurred; noise: the greatest deviation; hide: the share with a rectangle blotted out.
    """

    area: float = 1.0
    aspect: float = 1.0
    shift: float = 0.0
    degrees: float = 0.0
    shear: float = 0.0
    flip: bool = False
    bars: float = 0.0
    colour: float = 0.0
    grey: float = 0.0
    soft: float = 0.0
    noise: float = 0.0
    hide: float = 0.0


PHOTO = Policy(
    area=0.25, aspect=1.35, degrees=15, shear=0.15, flip=True, bars=0.25, colour=0.5, grey=0.08, soft=0.15,
    noise=0.04, hide=0.15,
)  # fmt: skip
GENTLE_PHOTO = Policy(
    area=0.55, aspect=1.2, degrees=5, flip=True, bars=0.3, colour=0.2, soft=0.1, noise=0.02
)
COLOURED_PHOTO = Policy(area=0.6, aspect=1.2, degrees=5, flip=True, bars=0.3, colour=0.08)
LAYOUT = Policy(shift=0.03, colour=0.08, noise=0.02)  # places, counts and colours must stay true
TEXT = Policy(
    area=0.9,
    aspect=1.25,
    shift=0.05,
    degrees=7,
    shear=0.15,
    colour=0.4,
    grey=0.1,
    soft=0.2,
    noise=0.05,
)


def view(pixels: Tensor, draws: Tensor, noise: Tensor, policy: Policy) -> Tensor:
    """pixels (b, h, w, 3) uint8, draws (b, DRAWS) in [0, 1) -> views (b, 3, s, s), float32 in [0, 1].

    noise (3, s, s): one normal field, which every picture takes in its own strength.
    """
    size = noise.shape[-1]
    draw = list(draws.unbind(1))
    grid, inside = _places(draw, size, policy)
    pictures = pixels.permute(0, 3, 1, 2).float() / 255
    views = F.grid_sample(pictures, grid, "bilinear", "border", align_corners=False)
    if policy.soft:
        soft = F.avg_pool2d(F.pad(views, (2, 2, 2, 2), mode="replicate"), 5, 1)
        blurred = draw[9] < policy.soft
        views = torch.where(_wide(blurred), torch.lerp(views, soft, _wide(draw[10])), views)
    if policy.colour:
        views = _colours(views, draw, policy)
    if policy.noise:
        strength = (2 * draw[17] - 1) ** 3 * policy.noise
        views = (views + noise * _wide(strength)).clamp(0, 1)
    if policy.bars:
        views = torch.where(inside, views, GREY)
    if policy.hide:
        hole = _rectangle(draw[18:22], size, 0.35) & _wide(draw[22] < policy.hide)
        views = torch.where(hole, GREY, views)
    return views


def _places(draw: list[Tensor], size: int, policy: Policy) -> tuple[Tensor, Tensor]:
    """Where each pixel of a view looks in its picture (b, s, s, 2) in [-1, 1], and whether that is no bar."""

    def between(k: int, low: float, high: float) -> Tensor:
        return draw[k] * (high - low) + low

    side = between(0, policy.area, 1.0).sqrt()
    stretch = _power(policy.aspect, between(1, -0.5, 0.5))
    # The shape of the crop, width / height: 1, or 1/1.8 to 1.8 shown between bars.
    shape = torch.where(
        draw[2] < policy.bars, _power(1.8, between(3, -1, 1)), torch.ones_like(side)
    )
    width = (side * stretch * shape.sqrt()).clamp(max=1.0)
    height = (side / stretch / shape.sqrt()).clamp(max=1.0)
    x = between(4, -1, 1) * (1 - width + policy.shift)
    y = between(5, -1, 1) * (1 - height + policy.shift)
    if policy.flip:
        width = torch.where(draw[6] < 0.5, -width, width)
    angle = between(7, -1, 1) * (torch.pi / 180 * policy.degrees)
    cos, sin, shear = angle.cos(), angle.sin(), between(8, -1, 1) * policy.shear
    line = (torch.arange(size, device=side.device) * 2 + 1) / size - 1
    u = line[None, None, :] * shape.reciprocal().clamp(min=1).view(-1, 1, 1)
    v = line[None, :, None] * shape.clamp(min=1).view(-1, 1, 1)
    inside = ((u.abs() <= 1) & (v.abs() <= 1))[:, None]
    cos, sin, shear, width, height, x, y = (
        t.view(-1, 1, 1) for t in (cos, sin, shear, width, height, x, y)
    )
    leaning = u + shear * v
    across = x + width * (leaning * cos - v * sin)
    down = y + height * (leaning * sin + v * cos)
    return torch.stack([across, down], -1), inside


def _colours(views: Tensor, draw: list[Tensor], policy: Policy) -> Tensor:
    """Brightness, contrast, saturation and a tint, each changed by up to the policy's strength."""

    def factor(k: int, strength: float) -> Tensor:
        return _wide(1 + strength * (2 * draw[k] - 1))

    views = views * factor(11, policy.colour)
    mean = views.mean((1, 2, 3), keepdim=True)
    views = mean + (views - mean) * factor(12, policy.colour)
    grey = views.mean(1, keepdim=True)
    saturation = factor(13, policy.colour) * (_wide(draw[14]) >= policy.grey)
    tint = torch.stack([draw[15] - 0.5, (draw[15] + draw[16]) * -0.5 + 0.5, draw[16] - 0.5], 1)
    views = grey + (views - grey) * saturation
    return (views * (1 + 0.4 * policy.colour * tint[:, :, None, None])).clamp(0, 1)


def blend(pixels: Tensor, partner: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Every picture with another one laid over it (mixup, arXiv 1710.09412) or set into it (CutMix, 1905.04899).

    pixels (b, c, s, s), partner (b,) indices: a picture that is its own partner stays as it is; draws (b, 6).
    Returns the blended pictures and the share (b,) that is left of each.
    """
    draw = list(draws.unbind(1))
    # Beta(1/2, 1/2) by its inverse distribution function, sin^2: mostly one picture or the other
    even = (draw[0] * (torch.pi / 2)).sin().square()
    box = _rectangle(draw[1:5], pixels.shape[-1], 0.8)
    weight = torch.where(_wide(draw[5] < 0.5), 1.0 - box.float(), _wide(even))
    alone = partner == torch.arange(len(pixels), device=pixels.device)
    weight = torch.where(_wide(alone), 1.0, weight)
    blended = torch.lerp(pixels[partner].float(), pixels.float(), weight)
    return blended.to(pixels.dtype), weight.mean((1, 2, 3))


def _rectangle(draw: list[Tensor], size: int, largest: float) -> Tensor:
    """A random rectangle of each picture, sides up to `largest` of the picture's: (b, 1, s, s) bool."""
    x, y, width, height = draw
    line = (torch.arange(size, device=x.device) + 0.5) / size
    sides = 0.1 + (largest - 0.1) * torch.stack([width, height])
    across = (line[None, :] - x[:, None]).abs() < sides[0][:, None] / 2
    down = (line[None, :] - y[:, None]).abs() < sides[1][:, None] / 2
    return (down[:, :, None] & across[:, None, :])[:, None]


def _power(base: float, exponent: Tensor) -> Tensor:
    return torch.exp(exponent * math.log(base))


def _wide(values: Tensor) -> Tensor:
    """(b,) -> (b, 1, 1, 1)"""
    return values.view(-1, 1, 1, 1)
