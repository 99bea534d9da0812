"""Simple pictures with Pillow: coloured shapes and written words on a plain ground."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

Scene = Literal["shape", "count", "place", "compare", "word"]
SCENES: tuple[Scene, ...] = ("shape", "count", "place", "compare", "word")
SHAPES = (
    "circle", "square", "rectangle", "triangle", "star", "diamond", "cross", "heart", "ring", "pentagon",
)  # fmt: skip
COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 150, 60),
    "blue": (40, 80, 210),
    "yellow": (245, 210, 40),
    "orange": (240, 130, 30),
    "purple": (130, 50, 160),
    "pink": (245, 140, 190),
    "brown": (120, 75, 40),
    "teal": (20, 150, 150),
    "black": (20, 20, 20),
    "gray": (128, 128, 128),
    "white": (250, 250, 250),
}


@dataclass(frozen=True)
class Thing:
    """One drawn shape: centre and radius as parts of the picture's side."""

    shape: str
    colour: str
    x: float
    y: float
    r: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> str:
        """One of nine places, as a person would say it."""
        row = "top" if self.y < 0.36 else "bottom" if self.y > 0.64 else "middle"
        column = "left" if self.x < 0.36 else "right" if self.x > 0.64 else "middle"
        if row == column:
            return "in the middle"
        return " ".join(part for part in (row, column) if part != "middle")


@dataclass(frozen=True)
class Contents:
    """All that a picture shows."""

    scene: Scene
    background: str
    things: tuple[Thing, ...] = ()
    word: str = ""
    ink: str = ""  # the word's colour


def paint(contents: Contents, size: int) -> Image.Image:
    """The picture itself, size x size, RGB; drawn three times as large and reduced, so that edges are smooth."""
    scale = 3
    canvas = Image.new("RGB", (size * scale, size * scale), COLOURS[contents.background])
    pen = ImageDraw.Draw(canvas)
    for thing in contents.things:
        _paint_thing(pen, thing, size * scale, COLOURS[contents.background])
    if contents.word:
        side = size * scale
        width = _font(side // 3).getlength(contents.word)
        font = _font(int(side // 3 * min(1.0, 0.92 * side / width)))
        pen.text(
            (side / 2, side / 2), contents.word, fill=COLOURS[contents.ink], font=font, anchor="mm"
        )
    return canvas.reduce(scale)


def _paint_thing(
    pen: ImageDraw.ImageDraw, thing: Thing, side: int, ground: tuple[int, int, int]
) -> None:
    x, y, r = thing.x * side, thing.y * side, thing.r * side
    fill = COLOURS[thing.colour]
    match thing.shape:
        case "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        case "ring":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
            pen.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=ground)
        case "square":
            pen.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=fill)
        case "rectangle":
            pen.rectangle((x - r, y - 0.5 * r, x + r, y + 0.5 * r), fill=fill)
        case "cross":
            pen.rectangle((x - r, y - 0.3 * r, x + r, y + 0.3 * r), fill=fill)
            pen.rectangle((x - 0.3 * r, y - r, x + 0.3 * r, y + r), fill=fill)
        case shape:
            pen.polygon([(x + r * u, y + r * v) for u, v in _outline(shape)], fill=fill)


@cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Corners of a shape in the unit circle, y downwards."""
    match shape:
        case "triangle":
            return _on_circle(3)
        case "diamond":
            return ((0, -1), (0.7, 0), (0, 1), (-0.7, 0))
        case "pentagon":
            return _on_circle(5)
        case "star":
            inner = [(0.42 * x, 0.42 * y) for x, y in _on_circle(5, turn=36)]
            return tuple(p for pair in zip(_on_circle(5), inner, strict=True) for p in pair)
        case _:  # the heart curve
            angles = [2 * math.pi * k / 40 for k in range(40)]
            return tuple(
                (
                    math.sin(t) ** 3,
                    -(
                        13 * math.cos(t)
                        - 5 * math.cos(2 * t)
                        - 2 * math.cos(3 * t)
                        - math.cos(4 * t)
                    )
                    / 17,
                )
                for t in angles
            )


def _on_circle(corners: int, turn: float = 0) -> tuple[tuple[float, float], ...]:
    angles = [math.radians(turn + 360 * k / corners) for k in range(corners)]
    return tuple((math.sin(a), -math.cos(a)) for a in angles)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
