"""Words on signs, made on the device: a letter mask under a random view, in ink, on a random ground.

A mask is drawn once (`data/words.py`); every time it is used it gets another ground (flat, shaded, or a piece of a
photograph), ink, shadow, slant, blur and place. A pure function of the draws.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmamba.data.augment import GREY

LETTERING_DRAWS = 35  # uniform numbers that `lettering` takes for a picture
MASK = (48, 144)  # pixels of a mask, which a word fills from edge to edge


def lettering(
    masks: Tensor, aspects: Tensor, grounds: Tensor, draws: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """masks (b, h, w) uint8, aspects (b,) = width / height of the words, grounds (b, s, s, 3) uint8 pictures,
    draws (b, LETTERING_DRAWS), noise (3, s, s) -> pictures (b, 3, s, s) in [0, 1], and where each pixel lies in the
    word, whose own edges are -1 and 1: x and y (b, s, s).

    The word lies on a strip, and outside the strip is the grey that the processor pads with.
    """
    size, draw = noise.shape[-1], list(draws.unbind(1))

    def between(k: int, low: float, high: float) -> Tensor:
        return (draw[k] * (high - low) + low).view(-1, 1, 1)

    line = (torch.arange(size, device=draws.device) * 2 + 1) / size - 1
    u, v = line[None, None, :], line[None, :, None]
    # The strip: the word and margins in units of its height; its longer side fills the square.
    left, right, over, under = (between(k, 0.0, 0.4) for k in range(4))
    long = aspects.view(-1, 1, 1) * torch.exp(between(4, -0.25, 0.25))
    wide, tall = long + left + right, 1 + over + under
    shape = wide / tall
    across, down = u * shape.reciprocal().clamp(min=1), v * shape.clamp(min=1)
    inside = ((across.abs() <= 1) & (down.abs() <= 1))[:, None]
    # Where the word is looked for: slant, rotation, perspective and a bend.
    angle = between(5, -0.13, 0.13) + (draw[6] < 0.15).view(-1, 1, 1) * between(7, -0.3, 0.3)
    ratio = shape.clamp(min=0.5)
    x = across + down * between(8, -0.25, 0.25) / ratio + down * angle / ratio
    y = down - across * angle * ratio.clamp(max=3.0)
    y = y * (1 + x * between(9, -0.25, 0.25)) + between(10, -0.25, 0.25) * (x * x - 0.5) * (
        draw[11] < 0.2
    ).view(-1, 1, 1)
    x = x * (1 + y * between(12, -0.12, 0.12))
    x, y = (x * wide + right - left) / long, y * tall + under - over
    ink = _sample(masks, x, y)
    offset = between(13, 0.01, 0.05)
    shadow = _sample(masks, x - offset, y - 3 * offset) * (draw[14] < 0.25).view(-1, 1, 1)
    ground, colour, dark = _paints(draw, grounds, u, v)
    picture = torch.lerp(ground, dark, shadow[:, None] * 0.8)
    picture = torch.lerp(picture, colour, ink[:, None] * between(15, 0.8, 1.0)[:, None])
    picture = (
        _soften(picture, draw)
        * (1 + 0.25 * (u * between(16, -1, 1) + v * between(17, -1, 1)))[:, None]
    )
    picture = (picture + noise * between(18, -0.06, 0.06)[:, None]).clamp(0, 1)
    grey = (draw[19] < 0.1).view(-1, 1, 1, 1)
    picture = torch.where(grey, picture.mean(1, keepdim=True), picture)
    bare = (draw[20] < 0.9).view(-1, 1, 1, 1)  # now and then the strip hangs in a picture
    scene = grounds.permute(0, 3, 1, 2).float() / 255
    outside = ~inside[:, 0]
    pictures = torch.where(inside, picture, torch.where(bare, GREY, scene))
    return pictures, x.masked_fill(outside, 2.0), y.masked_fill(outside, 2.0)


def _sample(masks: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The masks at (x, y), [-1, 1] being a word's own edges: (b, s, s) in [0, 1]."""
    grid = torch.stack(torch.broadcast_tensors(x, y), -1)
    ink = F.grid_sample(
        masks[:, None].float() / 255, grid, "bilinear", "zeros", align_corners=False
    )
    return ink[:, 0]


def _paints(
    draw: list[Tensor], grounds: Tensor, u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The ground (b, 3, s, s), and the colours (b, 3, 1, 1) of ink and shadow, bright on dark or dark on bright."""
    flat = torch.stack(draw[21:24], 1)[:, :, None, None]
    slope = ((u + v)[:, None] * (draw[24] - 0.5).view(-1, 1, 1, 1)) * 0.6
    photo = grounds.permute(0, 3, 1, 2).float() / 255
    photo = torch.lerp(photo, photo.mean((2, 3), keepdim=True), draw[25].view(-1, 1, 1, 1) * 0.8)
    ground = torch.where((draw[26] < 0.4).view(-1, 1, 1, 1), photo, (flat + slope).clamp(0, 1))
    light = _brightness(ground.mean((2, 3), keepdim=True))
    # Ink of any colour, pushed away from the ground's brightness by a third at least.
    colour = torch.stack(draw[27:30], 1)[:, :, None, None]
    side = torch.where(light > draw[30].view(-1, 1, 1, 1) * 0.4 + 0.3, -1.0, 1.0)
    wanted = (light + side * (0.32 + 0.55 * draw[31].view(-1, 1, 1, 1))).clamp(0, 1)
    plain = (draw[32] < 0.5).view(
        -1, 1, 1, 1
    )  # black, white and grey are what most signs are written in
    colour = torch.where(
        plain, wanted.expand_as(colour), (colour + wanted - _brightness(colour)).clamp(0, 1)
    )
    return ground, colour, (light - 0.3 * side).clamp(0, 1).expand_as(colour)


def _soften(pictures: Tensor, draw: list[Tensor]) -> Tensor:
    """Blurred by a box of 3 or 5 pixels, more or less, for half of the pictures."""
    three = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    five = F.avg_pool2d(F.pad(pictures, (2, 2, 2, 2), mode="replicate"), 5, 1)
    soft = torch.where((draw[33] < 0.5).view(-1, 1, 1, 1), three, five)
    amount = (draw[34] * 2 - 1).clamp(min=0).view(-1, 1, 1, 1)
    return torch.lerp(pictures, soft, amount)


def _brightness(colours: Tensor) -> Tensor:
    """(b, 3, ...) -> (b, 1, ...)"""
    red, green, blue = colours.split(1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue
