"""Pictures of single things to be pasted into scenes, and what kind of thing each of them is.

Tux Paint's stamps alone are learnt by heart: a model that has seen a hundred drawn animals counts those and no other.
So photographs of things, cut out where their ground is plain, emoji (`data/emoji.py`) and clip art (`data/clipart.py`)
stand beside them.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vlmamba.data import kinds
from vlmamba.data.made import in_pieces
from vlmamba.data.packs import Pack
from vlmamba.data.photos import class_name
from vlmamba.data.scenes import KIND_NAMES, folder_kind, stamps

# Kinds of photographed things that `data/kinds.py` does not tell, and things of no kind that is asked for.
PHOTOGRAPHED = {
    "fruit": "lemon, banana, orange, pomegranate, strawberry",
    "vegetable": "bell pepper, cauliflower, mushroom",
    "building": "water tower, triumphal arch, barn, thatch, cliff dwelling, obelisk, beacon, butcher shop, barbershop, "
    "minaret, pagoda, pyramid",
    "flower": "sunflower, lotus, water lily",
    "instrument": "organ, oboe, drumstick, accordion, electric guitar, euphonium, grand piano, mandolin, saxophone",
    "tool": "broom, nail, plunger, scissors, stapler, wrench",
    "": "chair, windsor chair, rocking chair, laptop, cellphone, watch, camera, headphone, soccer ball, basketball, "
    "volleyball, rugby ball, cup, teapot, lamp, umbrella, sombrero, sock, sandal, backpack, desk, refrigerator, pizza, "
    "ice cream, remote control, candle, pop bottle, bucket, dress, hat, pants, shirt, shoes, shorts, skirt, t-shirt",
}
UNCLEAR = (
    "coral reef",
    "brain coral",
    "sea cucumber",
    "trilobite",
    "wheelchair",
    "lawn mower",
    "gondola",
)
# Stamps that are plainly of no kind that is asked for, by the last word of their names.
OTHER_STAMPS = (
    "ball", "birdhouse", "bow", "button", "cake", "camera", "candle", "cap", "clothespin", "fedora", "flag", "glove",
    "hat", "jacket", "kettle", "key", "lightbulb", "mailbox", "mug", "pants", "pizza", "scarf", "shirt", "snowman",
    "sock", "sombrero", "star", "teapot", "thermometer", "volleyball", "football", "basketball",
)  # fmt: skip
# Stamps, by path and caption, that show several things, or a part of one.
NOT_ONE = re.compile(r"Two |Some |two |spider_|with_spider|spoke|cave_entrance|sedan_police")
# Pictures of a class that are taken, by set: each kind should have a thousand or two.
TAKEN = {"cifar10": 300, "tiny64": 120, "caltech101": 60, "clothing": 30}
# Of a class of Tiny-ImageNet, whose classes of these kinds are many.
OF_MANY = {"animal": 24, "vehicle": 40, "": 15}
SHARP = 40  # pixels of the shorter side from which on a thing is cut out
PLAIN = 0.92  # of a picture's rim that must be of one colour for its thing to be cut out


Box = tuple[int, int, int, int]  # left, top, right, bottom
Photographed = tuple[
    str, str, bytes, Box | None
]  # a name, a kind, the photograph, and where in it the thing is


@dataclass(frozen=True)
class Cutout:
    """A thing: its name ("" where it has none to be asked by), its kind ("" for none that is asked for), the encoded
    picture, what it looks like (a "stamp", a "drawing", an "emoji", a "photo" with alpha, or a "tile" without), and
    where in the picture it is, in pixels, if not all of it is meant."""

    name: str
    kind: str
    encoded: bytes
    look: str
    box: Box | None = None


def stamped(pack: Pack) -> list[Cutout]:
    """Tux Paint's stamps of known kinds but those held out, also such whose captions do not name them."""
    learnt, held = stamps(pack)
    found = [
        Cutout(s.name, s.kind, s.encoded, "stamp")
        for s in learnt
        if s.kind or s.name.split()[-1] in OTHER_STAMPS
    ]
    named = {stamp.encoded for stamp in (*learnt, *held)}
    for k in range(len(pack)):
        row = pack.arrays["i"][k]
        path, caption = pack.meta["path"][row], pack.meta["captions"][row]
        kind = folder_kind(path)
        if kind and pack.encoded(k) not in named and not NOT_ONE.search(f"{path} {caption}"):
            found.append(Cutout("", kind, pack.encoded(k), "stamp"))
    return found


def kind_of(name: str) -> str | None:
    """The kind of a photographed thing, None where it is not to be used."""
    if name in UNCLEAR:
        return None
    if name in _KINDS:
        return _KINDS[name]
    return next((kind for kind in kinds.kinds(name) if kind in ("animal", "vehicle")), None)


_KINDS = {name: kind for kind, names in PHOTOGRAPHED.items() for name in names.split(", ")}


def photographed(sets: Mapping[str, Sequence[Pack]]) -> list[Cutout]:
    """Things out of the first pack of each set of photographs; where boxes are given, what is in them."""
    found: list[Photographed] = []
    for name, taken in TAKEN.items():
        for pack in sets.get(name, ())[:1]:
            boxes = pack.arrays.get("box")
            for label, its_name in enumerate(map(class_name, pack.classes)):
                kind = kind_of(its_name)
                if kind is None:
                    continue
                few = OF_MANY.get(kind, taken) if name == "tiny64" else taken
                for k in np.flatnonzero(pack.arrays["y"] == label)[:few]:
                    box = None
                    if boxes is not None:
                        left, top, right, bottom = map(int, boxes[k])
                        box = left, top, right, bottom
                    found.append((its_name, kind, pack.encoded(k), box))
    return [cutout for part in in_pieces(_cut, found, 256) for cutout in part]


def _cut(things: Sequence[Photographed]) -> list[Cutout]:
    made: list[Cutout] = []
    for name, kind, encoded, box in things:
        picture = Image.open(io.BytesIO(encoded))
        if box is not None:
            picture = picture.crop(box)
        if min(picture.size) < 16:
            continue
        alone = None
        if min(picture.size) >= SHARP:
            picture = picture.convert("RGB")
            picture.thumbnail((64, 64), Image.Resampling.BICUBIC)
            alone = silhouette(picture)
        if alone is not None:
            made.append(Cutout(name, kind, encoding(alone), "photo"))
        else:
            made.append(Cutout(name, kind, encoded, "tile", box))
    return made


def encoding(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=85, method=0)
    return buffer.getvalue()


def silhouette(picture: Image.Image) -> Image.Image | None:
    """A thing without its ground, RGBA, where the ground is of one colour; None where it is not."""
    pixels = np.asarray(picture).astype(np.int16)
    rim = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, :2].reshape(-1, 3),
                          pixels[:, -2:].reshape(-1, 3)])  # fmt: skip
    near = np.abs(pixels - np.median(rim, axis=0)).max(2) < 30
    ground = near.copy()
    ground[1:-1, 1:-1] = False
    if ground.sum() < PLAIN * (2 * sum(near.shape) - 4):
        return None
    while True:  # what is of that colour and hangs together with the rim
        grown = (_dilated(ground) & near) | ground
        if (grown == ground).all():
            break
        ground = grown
    if not 0.12 < 1 - ground.mean() < 0.8:
        return None
    mask = Image.fromarray(np.where(ground, 0, 255).astype(np.uint8)).filter(ImageFilter.MedianFilter(3))  # fmt: skip
    alone = picture.convert("RGBA")
    alone.putalpha(mask)
    box = mask.getbbox()
    return None if box is None else alone.crop(box)


def _dilated(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= grown[:, :-1].copy()
    grown[:, :-1] |= grown[:, 1:].copy()
    return grown


def by_kind(cutouts: Sequence[Cutout]) -> dict[str, dict[str, list[Cutout]]]:
    """Kind -> look -> cutouts, in the order of KIND_NAMES."""
    found: dict[str, dict[str, list[Cutout]]] = {}
    for kind in KIND_NAMES:
        looks: dict[str, list[Cutout]] = {}
        for cutout in cutouts:
            if cutout.kind == kind:
                looks.setdefault(cutout.look, []).append(cutout)
        if looks:
            found[kind] = looks
    return found
