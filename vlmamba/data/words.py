"""Rendered words: what signs, posters and labels say, as letter masks in the fonts that a machine has."""

import importlib.util
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

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
LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
CHARACTERS = LETTERS + DIGITS  # what a letter head tells apart, case aside
LONGEST = 12  # characters that a letter head reads


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


def spelt(text: str) -> list[int]:
    """The characters of a word for a letter head: 1 to 36, 37 for others, then 0 to LONGEST; longer words are cut."""
    known = [CHARACTERS.find(c) + 1 or len(CHARACTERS) + 1 for c in text.lower()[:LONGEST]]
    return known + [0] * (LONGEST - len(known))


@dataclass(frozen=True)
class WordMasks:
    """Masks of one word each, with a dialogue about it, by seed and index; no fonts: Pillow's own.

    `common` are words as they stand on signs, `words` any of the language.
    """

    words: tuple[str, ...]
    common: tuple[str, ...]
    fonts: tuple[str, ...]
    height: int
    width: int
    seed: int = 0

    def draw(self, index: int) -> tuple[NDArray[np.uint8], float, list[float], str, Dialogue]:
        """The mask (height, width), the word's width by its height, where its letters begin and end, the word, and a
        dialogue."""
        rng = random.Random(self.seed * 1_000_003 + index)
        word = self.word(rng)
        mask, aspect, edges = self.mask(word, rng)
        return mask, aspect, edges, word, dialogues.about_word(word, self.similar(word, rng), rng)

    def word(self, rng: random.Random) -> str:
        """Mostly a known word in some case, else letters or digits at random."""
        draw = rng.random()
        if draw < 0.15:
            text = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 8)))
        elif draw < 0.23:
            return "".join(rng.choice(DIGITS) for _ in range(rng.randint(1, 5)))
        else:
            text = rng.choice(self.common if draw < 0.45 else self.words)
        if draw > 0.97:
            text += rng.choice("!?.:'s")
        return rng.choice((str.upper, str.upper, str.lower, str.capitalize, str))(text)

    def similar(self, word: str, rng: random.Random) -> list[str]:
        """Another word, or this one with a letter changed: what a picture of `word` does not say."""
        k = rng.randrange(len(word))
        other = rng.choice(LETTERS)
        changed = word[:k] + (other.upper() if word[k].isupper() else other) + word[k + 1 :]
        others = [w for w in (rng.choice(self.words), changed) if w.lower() != word.lower()]
        return others or [word + "s"]

    def mask(self, word: str, rng: random.Random) -> tuple[NDArray[np.uint8], float, list[float]]:
        """White letters on black, filling the mask from edge to edge; with its width by its height, and the LONGEST + 1
        edges of its letters from left to right, 0 to 1."""
        font = _typeface(rng.choice(self.fonts) if self.fonts else None)
        spacing = rng.choice((0, 0, 0, 2, 6, 12))
        stroke = rng.choice((0, 0, 0, 0, 1, 3))
        canvas = Image.new("L", (sum(int(font.getlength(c)) + spacing for c in word) + 60, 140))
        pen, edges = ImageDraw.Draw(canvas), [20.0]
        if spacing:
            for character in word:
                pen.text((edges[-1], 30), character, font=font, fill=255, stroke_width=stroke)
                edges.append(edges[-1] + font.getlength(character) + spacing)
        else:
            edges += [20 + font.getlength(word[: k + 1]) for k in range(len(word))]
            pen.text((edges[0], 30), word, font=font, fill=255, stroke_width=stroke)
        box = canvas.getbbox() or (0, 0, 8, 8)
        tight = canvas.crop(box).resize((self.width, self.height), Image.Resampling.BOX)
        inner = [(x - box[0]) / (box[2] - box[0]) for x in edges[1:-1][: LONGEST - 1]]
        edges = [0.0, *inner, *[1.0] * (LONGEST - len(inner))]
        return np.asarray(tight), (box[2] - box[0]) / (box[3] - box[1]), edges


@cache
def _typeface(path: str | None) -> ImageFont.FreeTypeFont:
    """The font of a file, or Pillow's own where a machine has none."""
    font = ImageFont.truetype(path, 56) if path else ImageFont.load_default(56)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
