"""What the mini model learns from: the picture packs, easy-VQA, drawn pictures and rendered words.

The packs come from a directory (see `data/packs.py`); a pack that is absent is left out, and said so.
"""

import gzip
import importlib.resources
import io
import json
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vlmamba.data import dialogues
from vlmamba.data.augment import GENTLE_PHOTO, LAYOUT, PHOTO, TEXT, Policy
from vlmamba.data.batches import Batches
from vlmamba.data.dialogues import Dialogue
from vlmamba.data.drawn import Drawing
from vlmamba.data.lettering import MASK
from vlmamba.data.mixture import Mixture, Source, Texts
from vlmamba.data.packs import Pack, find_packs, open_pack, square_pixels
from vlmamba.data.words import FONT_DIRECTORIES, WordMasks, find_fonts, spelt
from vlmamba.processing import Processor

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
FASHION = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
FASHION_DIRECTORIES = ("/usr/share/datasets/fashion-mnist",)
DICTIONARIES = ("/usr/share/dict/words",)
VALIDATION_ONLY = ("_dev", "_validation")


def class_name(label: str) -> str:
    """A class label as the model says it: "windsor_chair" -> "windsor chair"."""
    return NAMES.get(label, label.replace("_", " "))


def photo_source(
    packs: Sequence[Pack],
    share: float,
    size: int,
    what: str,
    per_picture: int,
    policy: Policy = PHOTO,
) -> Source:
    """Pictures of one named thing each, with `per_picture` dialogues about every picture; packs of one set together."""
    names = [class_name(label) for label in packs[0].classes]
    classes = np.concatenate([pack.arrays["y"] for pack in packs]).astype(np.int64)

    def dialogue(k: int, rng: random.Random) -> Dialogue:
        name = names[classes[k]]
        absent = [other for other in names if other != name]
        return dialogues.about_object(name, absent, what, rng)

    picture = np.repeat(np.arange(len(classes)), per_picture)
    told = [dialogue(int(k), random.Random(i)) for i, k in enumerate(picture)]
    pixels = np.concatenate([square_pixels(pack, size) for pack in packs])
    name = packs[0].name.split("_")[0]
    return Source(name, pixels, picture, told, policy, share, classes, len(names))


def sign_source(pack: Pack, share: float, size: int, per_picture: int) -> Source:
    """Words cropped from photos of signs and posters."""
    texts = pack.meta["texts"]
    words = [texts[i] for i in pack.arrays["i"]]
    picture = np.repeat(np.arange(len(pack)), per_picture)
    told = [dialogues.about_word(words[k], words, random.Random(i)) for i, k in enumerate(picture)]
    letters = np.array([spelt(word) for word in words])
    pixels = square_pixels(pack, size)
    return Source(pack.name, pixels, picture, told, TEXT, share, letters=letters)


def fashion_source(directories: Sequence[str | Path], share: float) -> Source | None:
    """Fashion-MNIST's train split from its own files in one of the directories; None where there are none."""
    for directory in directories:
        files = [
            Path(directory) / f"train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")
        ]
        if all(file.is_file() for file in files):
            pixels, classes = fashion(directory, "train")
            told = [
                dialogues.about_object(
                    FASHION[k],
                    [n for n in FASHION if n != FASHION[k]],
                    "grey photo",
                    random.Random(i),
                )
                for i, k in enumerate(classes)
            ]
            picture = np.arange(len(pixels))
            return Source("fashion", pixels, picture, told, PHOTO, share, classes, len(FASHION))
    log.warning("Fashion-MNIST is not there, it is left out: see docs/training.md")
    return None


def fashion(directory: str | Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures (n, 28, 28, 3), light on dark as in the set, and classes (n,) of a split, "train" or "t10k"."""
    with gzip.open(Path(directory) / f"{split}-images-idx3-ubyte.gz") as file:
        grey = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(Path(directory) / f"{split}-labels-idx1-ubyte.gz") as file:
        classes = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return np.repeat(grey[..., None], 3, 3), classes


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
    chunks = _made(_Drawing(draw), count)
    pixels = np.concatenate([np.stack([picture for picture, _ in chunk]) for chunk in chunks])
    told = [told for chunk in chunks for _, told in chunk]
    return Source(name, pixels, np.arange(count), told, policy, share)


def words_source(lettering: WordMasks, count: int, share: float) -> Source:
    """`count` masks of words, which become pictures on the device."""
    made = [item for chunk in _made(lettering.draw, count) for item in chunk]
    masks, aspects, words, told = zip(*made, strict=True)
    letters = np.array([spelt(word) for word in words])
    return Source(
        "words", np.stack(masks), np.arange(count), told, TEXT, share,
        letters=letters, aspects=np.array(aspects, np.float32),
    )  # fmt: skip


def _made(draw: Callable[[int], Any], count: int, chunk: int = 256) -> list[list[Any]]:
    """What `draw` makes of 0 to count - 1, in chunks, by one process a core."""
    starts = range(0, count, chunk)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_Chunk(draw, chunk, count), starts))


@dataclass(frozen=True)
class _Chunk:
    """What a run of indices becomes; a class, because processes need what they can name."""

    draw: Callable[[int], Any]
    size: int
    count: int

    def __call__(self, start: int) -> list[Any]:
        return [self.draw(index) for index in range(start, min(start + self.size, self.count))]


@dataclass(frozen=True)
class _Drawing:
    """The pixels of an index and its dialogue."""

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


@dataclass(frozen=True)
class MiniPictures:
    """The mini's pictures and what is said about them: the packs of a directory, and what the package draws.

    gentle: photos keep most of their frame, as in the stages that teach answering.
    """

    packs: str = "packs"
    size: int = 128  # pixels
    drawn: int = 60_000  # pictures of shapes
    words: int = 250_000  # masks of words
    seed: int = 0
    gentle: bool = False
    compile: bool = False  # torch.compile for the views

    def sources(self) -> list[Source]:
        sources = _sources(self.packs, self.size, self.drawn, self.words, self.seed)
        if not self.gentle:
            return sources
        return [replace(s, policy=GENTLE_PHOTO) if s.policy == PHOTO else s for s in sources]

    def batches(self, processor: Processor, batch_size: int, max_length: int, seed: int) -> Batches:
        """Every batch on the device that trains; dialogues are cut by turns to fit `max_length`."""
        text = max_length - processor.num_patches
        return Mixture(
            self.sources(), processor, batch_size, self.size, seed, text, _device(), self.compile
        )

    def texts(self) -> Iterator[str]:
        """What a tokenizer learns from. Words to be read are left out, so that they are spelt in short pieces."""
        for source in self.sources():
            if source.letters is None:
                for dialogue in source.dialogues:
                    yield from (f"{question}\n {answer}" for question, answer in dialogue)


@dataclass(frozen=True)
class MiniPhotos(MiniPictures):
    """Only the pictures with classes, for a teacher."""

    def sources(self) -> list[Source]:
        return [source for source in super().sources() if source.num_classes]


@dataclass(frozen=True)
class MiniTexts(MiniPictures):
    """The same conversations without their pictures, for the language model alone."""

    count: int = 200_000  # conversations

    def batches(self, processor: Processor, batch_size: int, max_length: int, seed: int) -> Batches:
        told = [dialogue for source in self.sources() for dialogue in source.dialogues]
        chosen = random.Random(self.seed).sample(told, min(len(told), self.count))
        return Texts(chosen, processor, batch_size, seed, max_length, _device())


@lru_cache(maxsize=1)
def _sources(packs: str, size: int, drawn: int, words: int, seed: int) -> list[Source]:
    """Everything at hand, with its share of a batch; kept, since every stage of a run asks for it."""
    opened = training_packs(packs)
    found: list[Source | None] = []
    for name, packs_of in _by_set(opened).items():
        if name == "tiny64":
            found.append(photo_source(packs_of, 24, 64, "photo", per_picture=1))
        elif name == "cifar10":
            found.append(photo_source(packs_of, 14, 32, "small photo", per_picture=1))
        elif name == "caltech101":
            found.append(photo_source(packs_of, 10, size, "picture", per_picture=6))
        elif name == "clothing":
            found.append(photo_source(packs_of, 5, size, "photo", per_picture=6))
        elif name == "iiit5k":
            found.append(sign_source(packs_of[0], 3, size, per_picture=4))
    found.append(fashion_source((Path(packs) / "fashion-mnist", *FASHION_DIRECTORIES), 3))
    found.append(easy_vqa_source(4))
    spoken = tuple(sorted({word for pack in opened.values() for word in _words(pack)}))
    found.append(drawn_source("drawn", Drawing(size=size, seed=seed).draw, drawn, LAYOUT, 8))
    fonts = tuple(find_fonts((*FONT_DIRECTORIES, Path(packs) / "fonts")))
    dictionary = _dictionary((Path(packs) / "words.txt", *DICTIONARIES)) or spoken
    lettering = WordMasks(dictionary, spoken, fonts, *MASK, seed)
    found.append(words_source(lettering, words, 12))
    return [source for source in found if source is not None]


def _by_set(opened: dict[str, Pack]) -> dict[str, list[Pack]]:
    """The packs of each set: a large one comes in several."""
    sets: dict[str, list[Pack]] = {}
    for name, pack in opened.items():
        sets.setdefault(name.split("_")[0], []).append(pack)
    return sets


def _dictionary(files: Sequence[str | Path]) -> tuple[str, ...]:
    """The short plain words of the first word list that is there."""
    for file in map(Path, files):
        if file.is_file():
            listed = file.read_text(encoding="utf-8", errors="ignore").split()
            return tuple(
                word for word in listed if word.isascii() and word.isalpha() and len(word) <= 10
            )
    return ()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _words(pack: Pack) -> list[str]:
    """Words that a pack knows: its texts, or those of its class names."""
    if "texts" in pack.meta:
        return [text for text in pack.meta["texts"] if text.isalnum()]
    if "classes" in pack.meta or "names" in pack.meta:
        return [
            word for label in pack.classes for word in class_name(label).split() if word.isalpha()
        ]
    return []
