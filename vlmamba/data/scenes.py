"""Tux Paint's stamps, and the scenes put together from them that the mini is asked about.

The stamps (pack `tuxpaint_160_rgba`) are cut-outs whose captions name them and whose folders say what kind of thing
they are. Every seventh stamp of a kind is held out: it appears in the scenes that `bench/mini_quality.py` asks about
and in no other. Scenes to learn from are made in `mixed_scenes.py`; changes there leave these as they are.
"""

import io
import random
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmamba.data.packs import Pack
from vlmamba.data.patch_classes import things_at
from vlmamba.data.scene_dialogues import OPPOSITE, plural

KINDS = {
    "animals": "animal", "food/fruit": "fruit", "food/vegetables": "vegetable", "vehicles": "vehicle",
    "town/houses": "building", "plants/flowers": "flower", "hobbies/music": "instrument", "household/tools": "tool",
}  # fmt: skip
KIND_NAMES = ("", *KINDS.values())  # in the order of `patch_classes`
HELD_OUT = 7  # every so many stamps of a kind


@dataclass(frozen=True)
class Stamp:
    """A cut-out: its name, its kind ("" for none that is asked for) and the encoded picture with alpha."""

    name: str
    kind: str
    encoded: bytes


def stamps(pack: Pack) -> tuple[list[Stamp], list[Stamp]]:
    """The stamps whose caption is a name: those to learn from, and those held out."""
    learnt: list[Stamp] = []
    held: list[Stamp] = []
    seen: dict[str, int] = {}
    for k in range(len(pack)):
        row = pack.arrays["i"][k]
        path, caption = pack.meta["path"][row], pack.meta["captions"][row]
        named = re.fullmatch(r"(?:An?|The) ([A-Za-z\- ]+)[.!]", caption)
        if named is None or path.startswith("symbols") or len(named[1].split()) > 3:
            continue
        kind = folder_kind(path)
        seen[kind] = seen.get(kind, 0) + 1
        stamp = Stamp(named[1], kind, pack.encoded(k))
        (held if kind and seen[kind] % HELD_OUT == 0 else learnt).append(stamp)
    return learnt, held


def folder_kind(path: str) -> str:
    """The kind of thing that the stamps of a folder are, "" for none that is asked for."""
    return next((kind for folder, kind in KINDS.items() if path.startswith(folder)), "")


@dataclass(frozen=True)
class Scene:
    """A picture, and what each of its patches shows (grid, grid), in `patch_classes`."""

    picture: Image.Image
    patches: NDArray[np.int64]


@dataclass(frozen=True)
class Scenes:
    """Scenes of stamps on plain grounds or on photographs (encoded), by seed and index."""

    stamps: tuple[Stamp, ...]
    grounds: tuple[bytes, ...]
    size: int
    seed: int = 0
    grid: int = 8  # patches a side

    def exam(self, index: int, form: str) -> tuple[Image.Image, str, str]:
        """A scene with one question by kind, which stamps never seen before can be asked by: "count" or "relation"."""
        rng = random.Random(f"{self.seed}/{index}/{form}")
        if form == "count":
            scene, things, _ = self._crowded(rng)
            kind = things[0].kind
            return scene.picture, f"How many {plural(kind)} are there?", str(len(things))
        scene, one, other, relation = self._paired(rng)
        first, second = sorted((relation, OPPOSITE[relation]), key=lambda r: (r != "left of", r))
        question = f"Is the {one.kind} {first} or {second} the {other.kind}?"
        return scene.picture, question, relation.removesuffix(" of")

    def _crowded(self, rng: random.Random) -> tuple[Scene, list[Stamp], list[Stamp]]:
        """One to six of a kind, equal or different ones, and up to two of another kind."""
        kind, other = rng.sample(sorted({s.kind for s in self.stamps if s.kind}), 2)
        count = rng.randint(1, 6)
        of_kind = [s for s in self.stamps if s.kind == kind]
        things = (
            rng.choices(of_kind, k=count) if rng.random() < 0.5 else [rng.choice(of_kind)] * count
        )
        others = rng.choices(
            [s for s in self.stamps if s.kind == other], k=rng.choice((0, 0, 1, 2))
        )
        cells = rng.sample(range(9), count + len(others))
        placed = [
            (
                stamp,
                (
                    (cell % 3 + 0.5) / 3 + rng.uniform(-0.03, 0.03),
                    (cell // 3 + 0.5) / 3 + rng.uniform(-0.03, 0.03),
                    rng.uniform(0.22, 0.3),
                ),
            )
            for stamp, cell in zip([*things, *others], cells, strict=True)
        ]
        return self._paste(placed, rng), things, others

    def _paired(self, rng: random.Random) -> tuple[Scene, Stamp, Stamp, str]:
        """Two things of different kinds, beside or above each other; where the first is, seen from the second."""
        kinds = rng.sample(sorted({s.kind for s in self.stamps if s.kind}), 2)
        one, other = (rng.choice([s for s in self.stamps if s.kind == kind]) for kind in kinds)
        relation = rng.choice(list(OPPOSITE))
        low, high = rng.uniform(0.2, 0.28), rng.uniform(0.72, 0.8)
        start, end = (low, high) if relation in ("left of", "above") else (high, low)
        aside = [0.5 + rng.uniform(-0.12, 0.12) for _ in range(2)]
        upright = relation in ("above", "below")
        centres = [(a, x) if upright else (x, a) for x, a in zip((start, end), aside, strict=True)]
        placed = [
            (stamp, (x, y, rng.uniform(0.3, 0.44)))
            for stamp, (x, y) in zip((one, other), centres, strict=True)
        ]
        return self._paste(placed, rng), one, other, relation

    def _paste(
        self, placed: list[tuple[Stamp, tuple[float, float, float]]], rng: random.Random
    ) -> Scene:
        """Stamps at (x, y) with their longer side, all as parts of the picture's side."""
        canvas, covers = self._ground(rng), Image.new("L", (self.size, self.size))
        for stamp, (x, y, side) in placed:
            cutout = _decoded(stamp.encoded)
            scale = side * self.size / max(cutout.size)
            small = cutout.resize(
                (max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale))),
                Image.Resampling.BILINEAR,
            )
            if rng.random() < 0.5:
                small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            at = round(x * self.size - small.width / 2), round(y * self.size - small.height / 2)
            canvas.paste(small, at, small)
            kind = 1 + KIND_NAMES.index(stamp.kind)
            covers.paste(kind, (*at, at[0] + small.width, at[1] + small.height), _opaque(small))
        middles = [(x, y) for _, (x, y, _) in placed]
        return Scene(canvas, things_at(np.asarray(covers), middles, self.grid))

    def _ground(self, rng: random.Random) -> Image.Image:
        if self.grounds and rng.random() < 0.4:
            photo = _decoded(rng.choice(self.grounds)).convert("RGB")
            return photo.resize((self.size, self.size), Image.Resampling.BILINEAR)
        bright = rng.random() < 0.7
        colour = tuple(rng.randint(150, 255) if bright else rng.randint(20, 150) for _ in range(3))
        return Image.new("RGB", (self.size, self.size), colour)


@lru_cache(maxsize=4096)
def _decoded(encoded: bytes) -> Image.Image:
    return Image.open(io.BytesIO(encoded)).convert("RGBA")


def _opaque(cutout: Image.Image) -> Image.Image:
    """Where a cut-out hides what is behind it, as a mask of whole pixels."""
    return cutout.getchannel("A").point([0] * 128 + [255] * 128, "1")
