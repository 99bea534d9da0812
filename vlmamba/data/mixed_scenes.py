"""Scenes to learn from: things of many looks, told by their kinds, on plain grounds and on photographs.

Drawings, emoji and photographs stand in one scene, so that what a thing is decides and not how it is drawn. Beside the
three by three places of the scenes that the mini is asked about, things stand anywhere, in many sizes.
"""

import io
import random
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image

from vlmamba.data.cutout_looks import Look, drawn_look, pasted
from vlmamba.data.cutouts import Cutout, by_kind
from vlmamba.data.dialogues import Dialogue
from vlmamba.data.patch_classes import things_at
from vlmamba.data.scene_dialogues import OPPOSITE, crowd_told, pair_told, single_told
from vlmamba.data.scenes import KIND_NAMES, Scene

LOOKS = {"stamp": 0.35, "drawing": 0.2, "emoji": 0.15, "photo": 0.12, "tile": 0.18}
ENOUGH = 20  # of a look: fewer cut-outs are taken less often
Placed = tuple[
    Cutout, float, float, float
]  # with its middle and its longer side, as parts of the picture's side


@dataclass(frozen=True)
class MixedScenes:
    """Scenes by seed and index; grounds: photographs, encoded; grid: patches a side."""

    cutouts: tuple[Cutout, ...]
    grounds: tuple[bytes, ...]
    size: int
    seed: int = 0
    grid: int = 8

    @cached_property
    def _kinds(self) -> dict[str, dict[str, list[Cutout]]]:
        return by_kind(self.cutouts)

    @cached_property
    def _asked(self) -> list[str]:
        return [kind for kind in self._kinds if kind]

    def draw(self, index: int) -> tuple[Scene, Dialogue]:
        rng = random.Random(f"{self.seed}/{index}/mixed")
        draw = rng.random()
        if draw < 0.5:
            return self.crowd(rng)
        return self.pair(rng) if draw < 0.92 else self.single(rng)

    def single(self, rng: random.Random) -> tuple[Scene, Dialogue]:
        thing = self._some(rng.choice(self._asked), rng)
        at = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6), rng.uniform(0.5, 0.95)
        return self._paste([(thing, *at)], rng), single_told(thing, rng)

    def crowd(self, rng: random.Random) -> tuple[Scene, Dialogue]:
        """One to six of a kind, equal or different ones, and up to three others."""
        kind = rng.choice(self._asked)
        count = rng.randint(1, 6)
        equal = rng.random() < 0.45
        things = (
            [self._some(kind, rng)] * count
            if equal
            else [self._some(kind, rng) for _ in range(count)]
        )
        other_kinds = [k for k in self._kinds if k != kind]
        if rng.random() < 0.7:
            other_kinds = [rng.choice(other_kinds)]
        others = [
            self._some(rng.choice(other_kinds), rng)
            for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 2, 3)) if other_kinds else 0)
        ]
        placed = _on_grid if rng.random() < 0.5 else _anywhere
        scene = self._paste(placed([*things, *others], rng), rng, alike=equal)
        return scene, crowd_told(things, others, rng)

    def pair(self, rng: random.Random) -> tuple[Scene, Dialogue]:
        """Two things of different kinds, beside or above each other, and sometimes a small third one."""
        kinds = rng.sample(self._asked, 2)
        one, other = (self._some(kind, rng) for kind in kinds)
        relation = rng.choice(list(OPPOSITE))
        apart = rng.uniform(0.36, 0.6)
        aside = rng.uniform(-1, 1) * min(0.26, 0.55 * apart)
        along = rng.uniform(0.17 + apart / 2, 0.83 - apart / 2)
        across = rng.uniform(0.34, 0.66)
        upright = relation in ("above", "below")
        first = -1 if relation in ("left of", "above") else 1
        placed: list[Placed] = []
        for thing, end in ((one, first), (other, -first)):
            a, b = along + end * apart / 2, across + end * aside / 2
            side = min(rng.uniform(0.22, 0.44), 0.95 * apart)
            placed.append((thing, *((b, a) if upright else (a, b)), side))
        others = [kind for kind in self._kinds if kind not in kinds]
        if others and rng.random() < 0.15:
            a, b = rng.uniform(0.1, 0.9), rng.choice((0.08, 0.92))
            third = self._some(rng.choice(others), rng)
            placed.insert(0, (third, *((b, a) if upright else (a, b)), rng.uniform(0.12, 0.2)))
        told = pair_told(one, other, relation, rng, alone=len(placed) == 2)
        return self._paste(placed, rng), told

    def _some(self, kind: str, rng: random.Random) -> Cutout:
        looks = self._kinds[kind]
        weights = [LOOKS[look] * min(1.0, len(of_look) / ENOUGH) for look, of_look in looks.items()]
        look = rng.choices(list(looks), weights)[0]
        return rng.choice(looks[look])

    def _paste(self, placed: list[Placed], rng: random.Random, alike: bool = False) -> Scene:
        """Things at their places. alike: equal ones may look the same but for being mirrored, too."""
        canvas, covers = self._ground(rng), Image.new("L", (self.size, self.size))
        looks: dict[Cutout, Look] = {}
        same = alike and rng.random() < 0.7
        for thing, x, y, side in placed:
            look = looks.setdefault(thing, drawn_look(rng)) if same else drawn_look(rng)
            small = pasted(thing, side * self.size, look, rng.random() < 0.5)
            at = round(x * self.size - small.width / 2), round(y * self.size - small.height / 2)
            canvas.paste(small, at, small)
            seen = small.getchannel("A").point(_OPAQUE, "1")
            box = (*at, at[0] + small.width, at[1] + small.height)
            covers.paste(1 + KIND_NAMES.index(thing.kind), box, seen)
        middles = [(x, y) for _, x, y, _ in placed]
        return Scene(canvas, things_at(np.asarray(covers), middles, self.grid))

    def _ground(self, rng: random.Random) -> Image.Image:
        draw = rng.random()
        if self.grounds and draw < 0.45:
            photo = _ground(rng.choice(self.grounds), self.size).copy()
            return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw < 0.22 else photo
        bright = rng.random() < 0.7
        colour = tuple(rng.randint(150, 255) if bright else rng.randint(20, 150) for _ in range(3))
        return Image.new("RGB", (self.size, self.size), colour)


_OPAQUE = [0] * 128 + [255] * 128


@lru_cache(maxsize=512)
def _ground(encoded: bytes, size: int) -> Image.Image:
    photo = Image.open(io.BytesIO(encoded)).convert("RGB")
    return photo.resize((size, size), Image.Resampling.BILINEAR)


def _on_grid(things: list[Cutout], rng: random.Random) -> list[Placed]:
    """In the middles of three by three cells, about."""
    cells = rng.sample(range(9), len(things))
    low = rng.choice((0.16, 0.22, 0.22))
    return [
        (
            thing,
            (cell % 3 + 0.5) / 3 + rng.uniform(-0.04, 0.04),
            (cell // 3 + 0.5) / 3 + rng.uniform(-0.04, 0.04),
            rng.uniform(low, 0.31),
        )
        for thing, cell in zip(things, cells, strict=True)
    ]


def _anywhere(things: list[Cutout], rng: random.Random) -> list[Placed]:
    """Without touching each other: one after the other, smaller where there is no room."""
    largest = min(0.36, 0.8 / len(things) ** 0.5)
    base = rng.uniform(0.15, largest)
    placed: list[Placed] = []
    for thing in things:
        side, tried = base * rng.uniform(0.8, 1.15), 0
        while True:
            x, y = (rng.uniform(0.55 * side, 1 - 0.55 * side) for _ in range(2))
            if all(
                max(abs(x - u), abs(y - v)) > 0.52 * (side + other) for _, u, v, other in placed
            ):
                break
            tried += 1
            if tried % 12 == 0:
                side *= 0.9
        placed.append((thing, x, y, side))
    return placed
