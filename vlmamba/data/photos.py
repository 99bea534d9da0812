"""Photographs of one named thing each as sources of a mixture: named, placed and coloured."""

import colorsys
import gzip
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmamba.data import dialogues
from vlmamba.data.augment import COLOURED_PHOTO, LAYOUT, PHOTO, Policy
from vlmamba.data.dialogues import Dialogue
from vlmamba.data.made import made
from vlmamba.data.mixture import Source
from vlmamba.data.packs import Pack, square_pixels

# Names that a sentence can hold, where the set's own label is not one.
NAMES = {
    "Faces": "face",
    "Faces_easy": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "car_side": "car",
    "longsleeve": "long-sleeved shirt",
    "outwear": "outerwear",
    "water_lilly": "water lily",
}
FASHION = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


def class_name(label: str) -> str:
    """A class label as the model says it: "windsor_chair" -> "windsor chair"."""
    return NAMES.get(label, label.replace("_", " "))


@dataclass(frozen=True)
class _Told:
    """The dialogue number `index` about pictures whose names are known, `per_picture` a picture."""

    names: tuple[str, ...]
    classes: NDArray[np.int64]
    what: str
    per_picture: int

    def __call__(self, index: int) -> Dialogue:
        name = self.names[self.classes[index // self.per_picture]]
        return dialogues.about_object(name, self.names, self.what, random.Random(index))


def named_source(
    name: str,
    pixels: NDArray[np.uint8],
    classes: NDArray[np.int64],
    names: Sequence[str],
    share: float,
    what: str,
    per_picture: int = 1,
    policy: Policy = PHOTO,
) -> Source:
    """Pictures of one named thing each, with `per_picture` dialogues about every picture; what: "photo" and such."""
    told = made(_Told(tuple(names), classes, what, per_picture), len(classes) * per_picture)
    picture = np.repeat(np.arange(len(classes)), per_picture)
    return Source(name, pixels, picture, told, policy, share, classes, len(names))


def photo_source(
    packs: Sequence[Pack], share: float, size: int, what: str, per_picture: int
) -> Source:
    """The packs of one set together."""
    names = [class_name(label) for label in packs[0].classes]
    classes = np.concatenate([pack.arrays["y"] for pack in packs]).astype(np.int64)
    pixels = np.concatenate([square_pixels(pack, size) for pack in packs])
    name = packs[0].name.split("_")[0]
    return named_source(name, pixels, classes, names, share, what, per_picture)


def placed_source(photos: Source, packs: Sequence[Pack], share: float) -> Source:
    """Where the thing stands, for pictures with boxes (in 64ths) that it does not fill; never cropped or flipped."""
    names = [class_name(label) for label in packs[0].classes]
    boxes = np.concatenate([pack.arrays["box"] for pack in packs]) / 64.0
    assert photos.classes is not None
    pictures, told = [], []
    for k, box in enumerate(boxes):
        place = place_of(*box)
        if place is not None:
            pictures.append(k)
            told.append(dialogues.placed(names[photos.classes[k]], place, random.Random(k)))
    return Source(
        f"{photos.name}_places",
        photos.pixels,
        np.array(pictures),
        told,
        replace(LAYOUT, colour=0.3),
        share,
    )


def place_of(left: float, top: float, right: float, bottom: float) -> str | None:
    """One of nine places for a box, None where it fills most of the picture or its place is not clear."""
    if (right - left) * (bottom - top) > 0.45:
        return None
    x, y = (left + right) / 2, (top + bottom) / 2
    if any(abs(at - edge) < 0.03 for at in (x, y) for edge in (0.38, 0.62)):
        return None
    row = "top" if y < 0.38 else "bottom" if y > 0.62 else ""
    column = "left" if x < 0.38 else "right" if x > 0.62 else ""
    return " ".join(part for part in (row, column) if part) or "in the middle"


def coloured_source(photos: Source, names: Sequence[str], share: float) -> Source | None:
    """The colour of the thing in the middle, for pictures where it is plain; None where there is none."""
    assert photos.classes is not None
    pictures, told = [], []
    for k, pixels in enumerate(photos.pixels):
        colour = colour_of(pixels)
        if colour is not None:
            name = names[int(photos.classes[k])]
            pictures.append(k)
            told.append(dialogues.coloured(name, colour, "photo", random.Random(k)))
    if not pictures:
        return None
    return Source(
        f"{photos.name}_colours", photos.pixels, np.array(pictures), told, COLOURED_PHOTO, share
    )


def colour_of(pixels: NDArray[np.uint8]) -> str | None:
    """The name of the colour that most of the middle has, None where there is no such colour."""
    side = len(pixels)
    middle = pixels[side * 3 // 8 : side * 5 // 8, side * 3 // 8 : side * 5 // 8].reshape(-1, 3)
    median = np.median(middle, axis=0)
    near = np.abs(middle.astype(float) - median).max(1) < 45
    if near.mean() < 0.7:
        return None
    hue, saturation, value = colorsys.rgb_to_hsv(*(median / 255))
    if value < 0.2:
        return "black"
    if saturation < 0.12:
        return "white" if value > 0.8 else "gray" if value < 0.68 else None
    if saturation < 0.25 or value < 0.28:
        return None
    for limit, name in ((15, "red"), (22, None), (42, "orange"), (48, None), (65, "yellow"), (75, None),
                        (160, "green"), (195, None), (255, "blue"), (265, None), (300, "purple"), (345, "pink"),
                        (361, "red")):  # fmt: skip
        if hue * 360 < limit:
            return "brown" if name == "orange" and value < 0.65 else name
    return None


def fashion_files(directories: Sequence[str | Path], split: str) -> Path | None:
    """The first of the directories that holds Fashion-MNIST's own files (idx, gzip) of a split, "train" or "t10k"."""
    for directory in map(Path, directories):
        files = [directory / f"{split}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
        if all(file.is_file() for file in files):
            return directory
    return None


def fashion(directory: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures (n, 28, 28, 3), light on dark as in the set, and classes (n,)."""
    with gzip.open(directory / f"{split}-images-idx3-ubyte.gz") as file:
        grey = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(directory / f"{split}-labels-idx1-ubyte.gz") as file:
        classes = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return np.repeat(grey[..., None], 3, 3), classes
