"""What the mini model learns from: the picture packs, easy-VQA, drawn pictures and rendered words.

The packs come from a directory (see `data/packs.py`); a pack that is absent is left out, and said so.
"""

import importlib.resources
import io
import json
import logging
import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmamba.data import dialogues
from vlmamba.data.augment import LAYOUT, PHOTO, TEXT, Policy
from vlmamba.data.dialogues import Dialogue
from vlmamba.data.drawn import Drawing
from vlmamba.data.mixture import Source
from vlmamba.data.packs import Pack, find_packs, open_pack, square_pixels
from vlmamba.data.words import WordPictures, find_fonts

log = logging.getLogger("vlmamba")
# index -> a picture and a dialogue about it; must be picklable
Draw = Callable[[int], tuple[Image.Image, Dialogue]]

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
VALIDATION_ONLY = ("_dev", "_validation")


def class_name(label: str) -> str:
    """A class label as the model says it: "windsor_chair" -> "windsor chair"."""
    return NAMES.get(label, label.replace("_", " "))


def photo_source(
    pack: Pack, share: float, size: int, what: str, per_picture: int, policy: Policy = PHOTO
) -> Source:
    """Pictures of one named thing each, with `per_picture` dialogues about every picture."""
    names = [class_name(label) for label in pack.classes]
    classes = pack.arrays["y"].astype(np.int64)

    def dialogue(k: int, rng: random.Random) -> Dialogue:
        name = names[classes[k]]
        absent = [other for other in names if other != name]
        return dialogues.about_object(name, absent, what, rng)

    picture = np.repeat(np.arange(len(pack)), per_picture)
    told = [dialogue(int(k), random.Random(i)) for i, k in enumerate(picture)]
    pixels = square_pixels(pack, size)
    return Source(pack.name, pixels, picture, told, policy, share, classes, len(names))


def sign_source(pack: Pack, share: float, size: int, per_picture: int) -> Source:
    """Words cropped from photos of signs and posters."""
    texts = pack.meta["texts"]
    words = [texts[i] for i in pack.arrays["i"]]
    picture = np.repeat(np.arange(len(pack)), per_picture)
    told = [dialogues.about_word(words[k], words, random.Random(i)) for i, k in enumerate(picture)]
    return Source(pack.name, square_pixels(pack, size), picture, told, TEXT, share)


def easy_vqa_source(share: float) -> Source | None:
    """The train split of the PyPI package easy-vqa, in its own wording; None where it is not installed."""
    pictures, questions = easy_vqa("train")
    if not questions:
        return None
    number = {index: k for k, index in enumerate(pictures)}
    told: dict[int, Dialogue] = {}
    for question, answer, index in questions:
        told.setdefault(number[index], []).append((question, answer))
    parts = [(k, turns[i : i + 3]) for k, turns in told.items() for i in range(0, len(turns), 3)]
    picture = np.array([k for k, _ in parts])
    pixels = np.stack([np.asarray(image) for image in pictures.values()])
    return Source("easy_vqa", pixels, picture, [turns for _, turns in parts], LAYOUT, share)


def easy_vqa(split: str) -> tuple[dict[int, Image.Image], list[tuple[str, str, int]]]:
    """Pictures by index and (question, answer, index) of a split of easy-vqa; empty where it is not installed."""
    try:
        root = importlib.resources.files("easy_vqa") / "data" / split
        questions = json.loads((root / "questions.json").read_text())
    except ModuleNotFoundError:
        log.warning("easy-vqa is not installed, its questions are left out: pip install easy-vqa")
        return {}, []
    indices = sorted({index for _, _, index in questions})
    pictures = {
        index: Image.open(io.BytesIO((root / "images" / f"{index}.png").read_bytes())).convert(
            "RGB"
        )
        for index in indices
    }
    return pictures, [tuple(question) for question in questions]


def drawn_source(name: str, draw: Draw, count: int, policy: Policy, share: float) -> Source:
    """`count` pictures that the package draws itself, by one process a core."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = list(pool.map(_Drawing(draw), range(count), chunksize=64))
    pixels = np.stack([picture for picture, _ in drawn])
    return Source(name, pixels, np.arange(count), [told for _, told in drawn], policy, share)


@dataclass(frozen=True)
class _Drawing:
    """The pixels of an index and its dialogue; a class, because processes need what they can name."""

    draw: Draw

    def __call__(self, index: int) -> tuple[NDArray[np.uint8], Dialogue]:
        picture, told = self.draw(index)
        return np.asarray(picture.convert("RGB")), told


def training_packs(directory: str | Path) -> dict[str, Pack]:
    """The packs of a directory that may be trained on; those for validation are never opened."""
    paths = find_packs(directory)
    allowed = {
        name: path
        for name, path in paths.items()
        if not any(mark in name for mark in VALIDATION_ONLY)
    }
    if not allowed:
        raise FileNotFoundError(
            f"{directory} holds no training packs (*.npz): see docs/training.md"
        )
    return {name: open_pack(path) for name, path in allowed.items()}


def mini_sources(directory: Path, size: int, drawn: int, words: int, seed: int) -> list[Source]:
    """Everything at hand, with its share of a batch."""
    packs = training_packs(directory)
    sources: list[Source | None] = []
    for name, pack in packs.items():
        if name.startswith("tiny64"):
            sources.append(photo_source(pack, 18, 64, "photo", per_picture=1))
        elif name.startswith("cifar10"):
            sources.append(photo_source(pack, 12, 32, "small photo", per_picture=1))
        elif name.startswith("caltech101"):
            sources.append(photo_source(pack, 14, size, "picture", per_picture=6))
        elif name.startswith("clothing"):
            sources.append(photo_source(pack, 6, size, "photo", per_picture=6))
        elif name.startswith("iiit5k"):
            sources.append(sign_source(pack, 4, size, per_picture=4))
    sources.append(easy_vqa_source(8))
    spoken = tuple(sorted({word for pack in packs.values() for word in _words(pack)}))
    sources.append(drawn_source("drawn", Drawing(size=size, seed=seed).draw, drawn, LAYOUT, 10))
    lettering = WordPictures(spoken, tuple(find_fonts()), size, seed)
    sources.append(drawn_source("words", lettering.draw, words, TEXT, 8))
    return [source for source in sources if source is not None]


def _words(pack: Pack) -> list[str]:
    """Words that a pack knows: its texts, or those of its class names."""
    if "texts" in pack.meta:
        return [text for text in pack.meta["texts"] if text.isalnum()]
    if "classes" in pack.meta or "names" in pack.meta:
        return [
            word for label in pack.classes for word in class_name(label).split() if word.isalpha()
        ]
    return []
