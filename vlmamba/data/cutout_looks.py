"""How a cut-out looks where it is pasted: its turn and stretch, its colours, and the shape of a plain photograph."""

import io
import math
import random
from dataclasses import dataclass
from functools import cache, lru_cache

from PIL import Image, ImageDraw, ImageFilter

from vlmamba.data.cutouts import Box, Cutout

MASKS = ("ellipse", "ellipse", "soft", "soft", "rounded", "rectangle", "octagon")
MASK_SIZE = 64


@dataclass(frozen=True)
class Look:
    """degrees: how far it is turned; shear; stretch: width by height against its own; colours: a 3 x 4 matrix, row by
    row, None for its own; mask: the shape of a picture without alpha; outline: the colour of a rim, if any."""

    degrees: float
    shear: float
    stretch: float
    colours: tuple[float, ...] | None
    mask: str
    outline: tuple[int, int, int] | None


def drawn_look(rng: random.Random) -> Look:
    plain = rng.random() < 0.25
    grey = rng.random() < 0.08
    rim = rng.random() < 0.1
    return Look(
        0.0 if plain else rng.gauss(0, 12),
        0.0 if plain else rng.gauss(0, 0.1),
        1.0 if plain else math.exp(rng.gauss(0, 0.12)),
        None if plain else _colours(rng, grey),
        rng.choice(MASKS),
        tuple(rng.choice((0, 255, rng.randint(0, 255))) for _ in range(3)) if rim else None,  # pyright: ignore[reportArgumentType]
    )


def _colours(rng: random.Random, grey: bool) -> tuple[float, ...]:
    """Hue turned about the grey axis, mostly little; saturation, light and single colours more or less."""
    turn = rng.uniform(-math.pi, math.pi) if rng.random() < 0.12 else rng.gauss(0, 0.2)
    saturation = 0.0 if grey else rng.uniform(0.5, 1.5)
    light = rng.uniform(0.7, 1.25)
    c, s = saturation * math.cos(turn), saturation * math.sin(turn) / math.sqrt(3)
    rows = []
    for k in range(3):
        gain = light * rng.uniform(0.88, 1.12)
        row = [(1 - c) / 3 + (c if j == k else 0.0) for j in range(3)]
        row[(k + 1) % 3] -= s
        row[(k + 2) % 3] += s
        rows += [gain * value for value in row] + [rng.uniform(-12, 12)]
    return tuple(rows)


def pasted(cutout: Cutout, side: float, look: Look, mirrored: bool) -> Image.Image:
    """The cut-out with its longer side `side` pixels long before it is turned, RGBA."""
    whole = _decoded(cutout.encoded, cutout.box)
    width, height = whole.width * math.sqrt(look.stretch), whole.height / math.sqrt(look.stretch)
    scale = side / max(width, height)
    size = max(2, round(width * scale)), max(2, round(height * scale))
    small = whole.resize(size, Image.Resampling.BILINEAR)
    if cutout.look == "tile":
        small.putalpha(_mask(look.mask).resize(size, Image.Resampling.BILINEAR))
    if look.colours is not None:
        alpha = small.getchannel("A")
        small = small.convert("RGB").convert("RGB", look.colours)
        small.putalpha(alpha)
    if mirrored:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if look.degrees or look.shear:
        small = _turned(small, look.degrees, look.shear)
    return small if look.outline is None else _outlined(small, look.outline)


def _turned(picture: Image.Image, degrees: float, shear: float) -> Image.Image:
    """Sheared, then turned, on a canvas that holds all of it."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b, d, e = (
        c,
        c * shear - s,
        s,
        s * shear + c,
    )  # from the picture to the canvas; of determinant 1
    w, h = picture.size
    width, height = (math.ceil(abs(p) * w + abs(q) * h) for p, q in ((a, b), (d, e)))
    x, y = width / 2, height / 2
    back = (e, -b, w / 2 - e * x + b * y, -d, a, h / 2 + d * x - a * y)
    return picture.transform(
        (width, height), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR
    )


def _outlined(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """With a rim of one pixel around it."""
    canvas = Image.new("RGBA", (picture.width + 2, picture.height + 2))
    canvas.paste(picture, (1, 1))
    rim = Image.new("RGBA", canvas.size, colour)
    rim.putalpha(canvas.getchannel("A").filter(ImageFilter.MaxFilter(3)))
    return Image.alpha_composite(rim, canvas)


@cache
def _mask(shape: str) -> Image.Image:
    """Where a picture without alpha is seen, when it has this shape."""
    edge, mask = MASK_SIZE - 1, Image.new("L", (MASK_SIZE, MASK_SIZE))
    pen = ImageDraw.Draw(mask)
    match shape:
        case "rectangle":
            pen.rectangle((0, 0, edge, edge), fill=255)
        case "rounded":
            pen.rounded_rectangle((0, 0, edge, edge), MASK_SIZE // 4, fill=255)
        case "octagon":
            near, far = 0.29 * edge, 0.71 * edge
            pen.polygon(
                [(near, 0), (far, 0), (edge, near), (edge, far), (far, edge), (near, edge), (0, far), (0, near)],
                fill=255,
            )  # fmt: skip
        case _:
            pen.ellipse((0, 0, edge, edge), fill=255)
    if shape == "soft":
        rim = MASK_SIZE // 10
        soft = Image.new("L", mask.size)
        soft.paste(mask.resize((MASK_SIZE - 2 * rim, MASK_SIZE - 2 * rim)), (rim, rim))
        return soft.filter(ImageFilter.GaussianBlur(rim * 0.6))
    return mask


@lru_cache(maxsize=3072)
def _decoded(encoded: bytes, box: Box | None) -> Image.Image:
    picture = Image.open(io.BytesIO(encoded)).convert("RGBA")
    return picture if box is None else picture.crop(box)
