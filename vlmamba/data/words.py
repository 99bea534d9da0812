"""Rendered words: what signs, posters and labels look like, in the fonts that a machine has."""

import importlib.util
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vlmamba.data import dialogues
from vlmamba.data.dialogues import Dialogue

FONT_DIRECTORIES = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
# Symbol fonts draw pictures or boxes in place of letters.
NOT_TEXT = ("emoji", "symbol", "stix", "cmex", "cmsy", "cmmi", "math", "dingbat", "awesome", "pdf")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def find_fonts(directories: Sequence[str | Path] = FONT_DIRECTORIES) -> list[str]:
    """The text fonts (.ttf, .otf) below the directories, matplotlib's own included where it is installed."""
    roots = [Path(directory).expanduser() for directory in directories]
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        roots.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    found = {
        path.name.lower(): str(path) for root in roots for path in sorted(root.rglob("*.[to]tf"))
    }
    return [
        path for name, path in sorted(found.items()) if not any(mark in name for mark in NOT_TEXT)
    ]


@dataclass(frozen=True)
class WordPictures:
    """Pictures of one word each, with a dialogue about it, by seed and index; no fonts: Pillow's own."""

    words: tuple[str, ...]
    fonts: tuple[str, ...]
    size: int  # pixels
    seed: int = 0

    def draw(self, index: int) -> tuple[Image.Image, Dialogue]:
        rng = random.Random(self.seed * 1_000_003 + index)
        word = self.word(rng)
        return self.picture(word, rng), dialogues.about_word(word, self.words, rng)

    def word(self, rng: random.Random) -> str:
        """Mostly a known word in some case, else letters or digits at random."""
        draw = rng.random()
        if draw < 0.2:
            return "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 8)))
        if draw < 0.27:
            return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 5)))
        word = rng.choice(self.words)
        return rng.choice((str.upper, str.upper, str.lower, str.capitalize, str))(word)

    def picture(self, word: str, rng: random.Random) -> Image.Image:
        """The word on a strip of colour, on a square padded as the processor pads; now and then on the whole square."""
        width = 2 * self.size
        font = self.font(word, width * rng.uniform(0.7, 0.96), rng)
        left, top, right, bottom = font.getbbox(word)
        high = max(int((bottom - top) * rng.uniform(1.1, 1.8)), width // 8)
        height = width if rng.random() < 0.2 else min(high, width)
        paper, ink = _contrasting(rng)
        strip = _paper(width, height, paper, rng)
        x = (width - (right - left)) * rng.uniform(0.2, 0.8) - left
        y = (height - (bottom - top)) * rng.uniform(0.3, 0.7) - top
        pen = ImageDraw.Draw(strip)
        if rng.random() < 0.15:
            pen.text((x + width * 0.012, y + width * 0.012), word, font=font, fill=_shade(ink, rng))
        pen.text((x, y), word, font=font, fill=ink)
        strip = strip.rotate(rng.uniform(-6, 6), Image.Resampling.BILINEAR, fillcolor=paper)
        if rng.random() < 0.4:
            strip = strip.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.2)))
        square = Image.new("RGB", (width, width), (127, 127, 127))
        square.paste(strip, (0, (width - height) // 2))
        return square.resize((self.size, self.size), Image.Resampling.BICUBIC)

    def font(self, word: str, width: float, rng: random.Random) -> ImageFont.FreeTypeFont:
        """A font in which the word is about `width` pixels wide, and no higher than that."""
        path = rng.choice(self.fonts) if self.fonts else None
        probe = _typeface(path, 64)
        left, top, right, bottom = probe.getbbox(word)
        scale = min(width / max(1, right - left), 0.8 * width / max(1, bottom - top))
        return _typeface(path, max(8, int(64 * scale)))


def _typeface(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    """The font of a file, or Pillow's own where a machine has none."""
    font = ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _contrasting(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Two colours whose brightness differs enough to read one on the other."""
    while True:
        paper, ink = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
        if abs(_brightness(paper) - _brightness(ink)) > 55:
            return paper, ink  # type: ignore[return-value]


def _brightness(colour: Sequence[int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _shade(colour: Sequence[int], rng: random.Random) -> tuple[int, int, int]:
    factor = rng.uniform(0.3, 0.7)
    return tuple(int(c * factor) for c in colour)  # type: ignore[return-value]


def _paper(
    width: int, height: int, colour: tuple[int, int, int], rng: random.Random
) -> Image.Image:
    """A flat strip, or one that changes its shade from side to side."""
    strip = Image.new("RGB", (width, height), colour)
    if rng.random() < 0.5:
        mask = (
            Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize((width, height))
        )
        other = Image.new("RGB", (width, height), _shade(colour, rng))
        strip = Image.composite(other, strip, mask.point([value // 2 for value in range(256)]))
    return strip
