"""Emoji of known kinds as cut-outs, in the drawings of Noto Color Emoji where that font is found.

Debian's package is `fonts-noto-color-emoji` (SIL Open Font License 1.1); it draws at one size, 109 pixels.
"""

import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlmamba.data.cutouts import Cutout, encoding
from vlmamba.data.made import in_pieces

FONT = "NotoColorEmoji.ttf"
PIXELS = 109  # the size of its drawings
KEPT = 96  # pixels of the longer side
EMOJI = {
    "animal": "🐀🐁🐂🐃🐄🐅🐆🐇🐈🐊🐋🐌🐍🐎🐏🐐🐑🐒🐓🐖🐕🐙🐛🐜🐝🐞🐟🐠🐡🐢🐣🐤🐥🐦🐧🐨🐩🐪🐫🐬🐭🐮🐯🐰🐱🐳🐴🐵🐶🐷🐸🐹"
    "🐺🐻🐼🐿🕊🕷🦀🦁🦂🦃🦅🦆🦇🦈🦉🦊🦋🦌🦍🦎🦏🦐🦑🦒🦓🦔🦕🦖🦗🦘🦙🦚🦛🦜🦝🦞🦟🦡🦢🦣🦤🦥🦦🦧🦨🦩🦫🦬🦭🪰🪱🪲🪳",
    "fruit": "🍇🍈🍉🍊🍋🍌🍍🍎🍏🍐🍑🍒🍓🥭🥝🥥🥑🫐🫒",
    "vegetable": "🍅🌽🌶🍄🍆🍠🥔🥕🥒🥦🥬🧄🧅🫑",
    "vehicle": "🚁🚂🚃🚄🚅🚆🚇🚈🚊🚋🚌🚍🚎🚐🚑🚒🚓🚔🚕🚖🚗🚘🚙🚚🚛🚜🚝🚞🚢🚤🚲🛥🛩🛫🛬🛳🛴🛵🛶🛺🛻🏍🏎⛴⛵✈",
    "building": "🏠🏡🏚🏛🏢🏣🏤🏥🏦🏨🏩🏪🏫🏬🏭🏯🏰🗼⛪⛺🕌🕍🛕🛖",
    "flower": "🌷🌸🌹🌺🌻🌼💮🏵🥀🪷🪻",
    "instrument": "🎷🎸🎹🎺🎻🥁🪕🪗🪘🪈",
    "tool": "🔧🔨🔩🔪🗜✂⛏🧹🧰🪓🪚🪛🪜🪝🪠🖌",
    "": "⚽🎾🏀🏈🏐⌚☎☕🍕🍞🍩🍪🎀🎁🎂🎈🎩🎧👒👓👔👕👖👗👞👟👠💡💻📚📱📷🔑🕯🛏🧢🧣🧤🧥🧦🪑",
}  # fmt: skip
# Kinds whose emoji have names that people use.
NAMED = ("animal", "fruit", "vegetable", "instrument")


def emoji(directories: Sequence[str | Path]) -> list[Cutout]:
    """The emoji that the font draws, the first that is found below the directories; none where there is none."""
    characters = [(kind, one) for kind, several in EMOJI.items() for one in several]
    for directory in directories:
        for path in sorted(Path(directory).expanduser().rglob(FONT)):
            parts = in_pieces(partial(_drawn, path), characters, 24)
            return [cutout for part in parts for cutout in part]
    return []


def _drawn(path: Path, characters: Sequence[tuple[str, str]]) -> list[Cutout]:
    font = ImageFont.truetype(str(path), PIXELS)
    found: list[Cutout] = []
    for kind, character in characters:
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((10, 10), character, "black", font, embedded_color=True)
        box = canvas.getbbox()
        if box is None or np.asarray(canvas)[..., :3].max() < 32:
            continue  # not in this font: nothing, or a black frame in its place
        drawn = canvas.crop(box)
        drawn.thumbnail((KEPT, KEPT), Image.Resampling.BICUBIC)
        name = unicodedata.name(character, "").lower().removesuffix(" face")
        named = kind in NAMED and len(name.split()) < 3
        found.append(Cutout(name if named else "", kind, encoding(drawn), "emoji"))
    return found
