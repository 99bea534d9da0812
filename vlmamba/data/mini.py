"""What the mini model learns from: the picture packs, easy-VQA, drawn pictures and rendered words.

The packs come from a directory (see `data/packs.py`); a pack that is absent is left out, and said so.
"""

import importlib.resources
import io
import json
import logging
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmamba.data import dialogues
from vlmamba.data.augment import LAYOUT, PHOTO, TEXT, Policy
from vlmamba.data.dialogues import Dialogue
from vlmamba.data.mixture import Rows, Source
from vlmamba.data.packs import Pack, find_packs, in_processes, open_pack, square_pixels
from vlmamba.processing import Processor, Turn

log = logging.getLogger("vlmamba")

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
    pack: Pack,
    processor: Processor,
    share: float,
    size: int,
    what: str,
    per_picture: int,
    policy: Policy = PHOTO,
) -> Source:
    """Pictures of one named thing each, with `per_picture` dialogues about every picture."""
    names = [class_name(label) for label in pack.classes]
    classes = pack.arrays["y"].astype(np.int64)

    def dialogue(k: int, rng: random.Random) -> Dialogue:
        name = names[classes[k]]
        absent = [other for other in names if other != name]
        return dialogues.about_object(name, absent, what, rng)

    picture = np.repeat(np.arange(len(pack)), per_picture)
    rows = dialogue_rows(
        [dialogue(k, random.Random(i)) for i, k in enumerate(picture)], picture, processor
    )
    return Source(pack.name, square_pixels(pack, size), rows, policy, share, classes, len(names))


def word_source(
    pack: Pack, processor: Processor, share: float, size: int, per_picture: int
) -> Source:
    """Cropped words from signs and posters."""
    texts = pack.meta["texts"]
    words = [texts[i] for i in pack.arrays["i"]]
    picture = np.repeat(np.arange(len(pack)), per_picture)
    told = [dialogues.about_word(words[k], words, random.Random(i)) for i, k in enumerate(picture)]
    return Source(
        pack.name, square_pixels(pack, size), dialogue_rows(told, picture, processor), TEXT, share
    )


def easy_vqa_source(processor: Processor, share: float) -> Source | None:
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
    rows = dialogue_rows([turns for _, turns in parts], picture, processor)
    return Source("easy_vqa", pixels, rows, LAYOUT, share)


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


def drawn_source(
    name: str,
    draw: Callable[[int], tuple[Image.Image, Dialogue]],
    count: int,
    size: int,
    processor: Processor,
    policy: Policy,
    share: float,
) -> Source:
    """`count` pictures that the package draws itself: `draw(index)` gives a picture and a dialogue about it."""
    pixels = in_processes(_Drawing(draw, size), range(count))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        told = list(pool.map(_Telling(draw), range(count), chunksize=256))
    return Source(name, pixels, dialogue_rows(told, np.arange(count), processor), policy, share)


class _Drawing:
    """The picture of an index as pixels; a class, because processes need something they can name."""

    def __init__(self, draw: Callable[[int], tuple[Image.Image, Dialogue]], size: int) -> None:
        self.draw, self.size = draw, size

    def __call__(self, index: int) -> NDArray[np.uint8]:
        picture, _ = self.draw(index)
        return np.asarray(
            picture.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        )


class _Telling:
    """The dialogue of an index."""

    def __init__(self, draw: Callable[[int], tuple[Image.Image, Dialogue]]) -> None:
        self.draw = draw

    def __call__(self, index: int) -> Dialogue:
        return self.draw(index)[1]


def dialogue_rows(
    told: Sequence[Dialogue],
    picture: NDArray[np.int64],
    processor: Processor,
    max_text_tokens: int = 64,
) -> Rows:
    """Token ids and labels of dialogues, right-padded; turns that would pass the limit are left out."""
    limit = processor.num_patches + max_text_tokens
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        encode = _Encoding(processor, limit)
        encoded = list(pool.map(encode, told, chunksize=512))
    length = max(len(ids) for ids, _ in encoded)
    input_ids = np.full((len(encoded), length), processor.pad_token_id, np.int32)
    labels = np.full((len(encoded), length), -100, np.int32)
    for row, (ids, wanted) in enumerate(encoded):
        input_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = wanted
    return Rows(picture, input_ids, labels)


class _Encoding:
    """Ids and labels of one dialogue, as many turns as fit."""

    def __init__(self, processor: Processor, limit: int) -> None:
        self.processor, self.limit = processor, limit

    def __call__(self, told: Dialogue) -> tuple[list[int], list[int]]:
        for keep in range(len(told), 0, -1):
            turns = []
            for number, (question, answer) in enumerate(told[:keep]):
                turns += [
                    Turn("user", question, num_pictures=int(number == 0)),
                    Turn("assistant", answer),
                ]
            ids, labels = self.processor.training_ids(turns)
            if len(ids) <= self.limit:
                return ids, labels
        raise ValueError(f"a single turn is longer than {self.limit} tokens: {told[0]!r}")


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
