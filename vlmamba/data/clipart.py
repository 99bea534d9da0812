"""Drawings of the Open Clip Art Library as cut-outs, where they are installed (Debian's `openclipart-png`).

They are in the public domain. `clipart.json` lists by kind those that show one plain thing; two that are among Tux
Paint's stamps held out (`data/scenes.py`) are not in it.
"""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image

from vlmamba.data.cutouts import Cutout, encoding
from vlmamba.data.made import in_pieces

CLIPART_DIRECTORIES = ("/usr/share/openclipart/png",)
KEPT = 96  # pixels of the longer side


def clipart(directories: Sequence[str | Path]) -> list[Cutout]:
    """The listed drawings of the first of the directories that is there; none where there is none."""
    root = next((Path(d) for d in directories if Path(d).is_dir()), None)
    if root is None:
        return []
    listed = json.loads((files("vlmamba.data") / "clipart.json").read_text())
    there = [
        (kind, root / name)
        for kind, names in listed.items()
        for name in names
        if (root / name).is_file()
    ]
    return [drawing for part in in_pieces(_reduced, there, 32) for drawing in part]


def _reduced(drawings: Sequence[tuple[str, Path]]) -> list[Cutout]:
    found: list[Cutout] = []
    for kind, path in drawings:
        picture = Image.open(path).convert("RGBA")
        picture = picture.crop(picture.getchannel("A").getbbox())
        picture.thumbnail((KEPT, KEPT), Image.Resampling.BICUBIC)
        found.append(Cutout("", kind, encoding(picture), "drawing"))
    return found
