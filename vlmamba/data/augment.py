"""Random views of pictures on the device they live on: crops, flips, warps, colours, and two pictures in one.

Everything random comes in as uniform draws, so a batch is a pure function of its seed. A view costs ten passes over its
pixels, whatever the policy: one sampling for all geometry, one matrix a picture for all colours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 23  # uniform numbers that `view` takes for a picture
GREY = 127 / 255  # what the processor pads with
SOFTENED = 6  # every so many pictures of a batch can be blurred


@dataclass(frozen=True)
class Policy:
    """How far a view may stray from its picture.

    area: the least part of the picture that a crop keeps; aspect: the greatest stretch of its sides;
    shift: movement as a part of the side where nothing is cropped; degrees: rotation; shear; flip: the share that
    is mirrored left to right; bars: the share of views that show a wide or high crop between grey bars, as the
    processor pads; colour: strength of brightness, contrast, saturation and tint; grey: the share without colour;
    soft: how much some are blurred; noise: the greatest deviation; hide: the share with a rectangle blotted out.
    """

    area: float = 1.0
    aspect: float = 1.0
    shift: float = 0.0
    degrees: float = 0.0
    shear: float = 0.0
    flip: float = 0.0
    bars: float = 0.0
    colour: float = 0.0
    grey: float = 0.0
    soft: float = 0.0
    noise: float = 0.0
    hide: float = 0.0


class Policies:
    """A policy for every picture of a batch: the fields of Policy, each (b,)."""

    def __init__(
        self, policies: Sequence[tuple[Policy, int]], device: torch.device | str = "cpu"
    ) -> None:
        """`policies`: each one and for how many pictures in a row it holds."""
        counts = torch.tensor([count for _, count in policies])
        for field in fields(Policy):
            values = torch.tensor([float(getattr(policy, field.name)) for policy, _ in policies])
            setattr(self, field.name, values.repeat_interleave(counts).to(device))

    def __getattr__(self, name: str) -> Tensor:  # only for the type checker: every field is set
        raise AttributeError(name)


PHOTO = Policy(
    area=0.3, aspect=1.33, degrees=8, shear=0.08, flip=0.5, bars=0.15, colour=0.4, grey=0.05, soft=0.1, noise=0.03,
    hide=0.1,
)  # fmt: skip
GENTLE_PHOTO = Policy(
    area=0.55, aspect=1.2, degrees=5, flip=0.5, bars=0.3, colour=0.2, soft=0.1, noise=0.02
)
COLOURED_PHOTO = Policy(area=0.6, aspect=1.2, degrees=5, flip=0.5, bars=0.3, colour=0.08)
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


def view(pixels: Tensor, draws: Tensor, noise: Tensor, policy: Policies) -> Tensor:
    """pixels (b, h, w, 3) uint8, draws (b, DRAWS) in [0, 1) -> views (b, 3, s, s) in [-1, 1], float16 on a GPU.

    noise (3, s, s): one normal field, which every picture takes in its own strength.
    """
    size = noise.shape[-1]
    dtype = torch.float16 if pixels.is_cuda else torch.float32
    draw = list(draws.unbind(1))
    maps, bars = _places(draw, policy)
    pictures = pixels.permute(0, 3, 1, 2).to(dtype)
    grid = _grid(maps.to(dtype), size)
    views = F.grid_sample(pictures, grid, "bilinear", "border", align_corners=False)
    some = views[::SOFTENED]
    soft = F.avg_pool2d(F.pad(some, (2, 2, 2, 2), mode="replicate"), 5, 1)
    some.lerp_(soft, _wide((draw[10] * policy.soft)[::SOFTENED]).to(dtype))
    matrices, offsets = _colours(views.mean((1, 2, 3), dtype=torch.float32), draw, policy)
    views = _mixed(views, matrices.to(dtype), offsets.to(dtype))
    strength = (2 * draw[17] - 1) ** 3 * policy.noise * 2
    views.addcmul_(noise[None].to(dtype), _wide(strength).to(dtype)).clamp_(-1, 1)
    hidden = _rectangle(draw[18:22], size, 0.35) & _wide(draw[22] < policy.hide)
    return views.masked_fill_(hidden | _outside(bars, size), 2 * GREY - 1)


def _places(draw: list[Tensor], policy: Policies) -> tuple[Tensor, Tensor]:
    """Affine maps (b, 2, 3) from view to picture, both in [-1, 1], and by how much the view outgrows the picture's
    sides (b, 2): 1 where there are no bars."""

    def between(k: int, low: Tensor | float, high: Tensor | float) -> Tensor:
        return draw[k] * (high - low) + low

    side = between(0, policy.area, 1.0).sqrt()
    stretch = (between(1, -0.5, 0.5) * policy.aspect.log()).exp()
    # The shape of the crop, width / height: 1, or 1/1.8 to 1.8 shown between bars.
    shape = (between(3, -math.log(1.8), math.log(1.8)) * (draw[2] < policy.bars)).exp()
    width = (side * stretch * shape.sqrt()).clamp(max=1.0)
    height = (side / stretch / shape.sqrt()).clamp(max=1.0)
    x = between(4, -1, 1) * (1 - width + policy.shift)
    y = between(5, -1, 1) * (1 - height + policy.shift)
    width = torch.where(draw[6] < policy.flip, -width, width)
    angle = between(7, -1, 1) * (torch.pi / 180) * policy.degrees
    cos, sin, shear = angle.cos(), angle.sin(), between(8, -1, 1) * policy.shear
    bars = torch.stack([shape.reciprocal().clamp(min=1), shape.clamp(min=1)], 1)
    across, down = bars.unbind(1)
    maps = torch.stack(
        [
            width * cos * across, width * (shear * cos - sin) * down, x,
            height * sin * across, height * (shear * sin + cos) * down, y,
        ],
        1,
    )  # fmt: skip
    return maps.view(-1, 2, 3), bars


def _grid(maps: Tensor, size: int) -> Tensor:
    """Where each pixel of a view lies in its picture (b, s, s, 2): `F.affine_grid` without its slow product."""
    across, down, middle = maps[:, None, None].unbind(4)  # (b, 1, 1, 2) each
    line = ((torch.arange(size, device=maps.device) * 2 + 1) / size - 1).to(maps.dtype)
    rows = torch.addcmul(middle, down, line[:, None, None])  # (b, s, 1, 2)
    return torch.addcmul(rows, across, line[:, None])


def _mixed(views: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """Colours (b, 3, s, s) by the map (b, 3, 3) and (b, 3, 1) of each picture."""
    columns = matrices[..., None, None].unbind(2)  # (b, 3, 1, 1) each
    mixed = offsets[..., None]
    for column, plane in zip(columns, views.split(1, 1), strict=True):
        mixed = torch.addcmul(mixed, column, plane)
    return mixed


def _outside(bars: Tensor, size: int) -> Tensor:
    """Where the bars are (b, 1, s, s)."""
    line = ((torch.arange(size, device=bars.device) * 2 + 1) / size - 1).abs()
    beyond = bars[:, :, None] * line > 1  # (b, 2, s)
    return (beyond[:, 0, None, :] | beyond[:, 1, :, None])[:, None]


def _colours(means: Tensor, draw: list[Tensor], policy: Policies) -> tuple[Tensor, Tensor]:
    """Brightness, contrast, saturation and a tint as one map of 0 .. 255 to -1 .. 1: (b, 3, 3) and (b, 3, 1).

    means (b,): each picture's, about which its contrast changes.
    """

    def factor(k: int) -> Tensor:
        return 1 + policy.colour * (2 * draw[k] - 1)

    brightness, contrast = factor(11), factor(12)
    saturation = (factor(13) * (draw[14] >= policy.grey))[:, None, None]
    tint = torch.stack([draw[15] - 0.5, 0.5 - (draw[15] + draw[16]) / 2, draw[16] - 0.5], 1)
    tint = 1 + 0.4 * policy.colour[:, None] * tint  # (b, 3)
    eye = torch.eye(3, device=means.device)
    mixing = (saturation * eye + (1 - saturation) / 3) * tint[:, :, None]
    matrices = mixing * (contrast * brightness * (2 / 255))[:, None, None]
    offsets = tint * ((1 - contrast) * brightness * means * (2 / 255))[:, None] - 1
    return matrices, offsets[:, :, None]


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
    return torch.lerp(pixels[partner], pixels, weight.to(pixels.dtype)), weight.mean((1, 2, 3))


def _rectangle(draw: list[Tensor], size: int, largest: float) -> Tensor:
    """A random rectangle of each picture, sides up to `largest` of the picture's: (b, 1, s, s) bool."""
    x, y, width, height = draw
    line = (torch.arange(size, device=x.device) + 0.5) / size
    sides = 0.1 + (largest - 0.1) * torch.stack([width, height])
    across = (line[None, :] - x[:, None]).abs() < sides[0][:, None] / 2
    down = (line[None, :] - y[:, None]).abs() < sides[1][:, None] / 2
    return (down[:, :, None] & across[:, None, :])[:, None]


def _wide(values: Tensor) -> Tensor:
    """(b,) -> (b, 1, 1, 1)"""
    return values.view(-1, 1, 1, 1)
