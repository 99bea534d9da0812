"""What the mini model learns from: the picture packs, easy-VQA, drawn pictures, composed scenes and rendered words.

The packs come from a directory (see `data/packs.py`); a pack that is absent is left out, and said so.
"""

import importlib.resources
import io
import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vlmamba.data import dialogues
from vlmamba.data.augment import GENTLE_PHOTO, LAYOUT, PHOTO, TEXT, Policy
from vlmamba.data.batches import Batches
from vlmamba.data.box_pictures import BoxPictures
from vlmamba.data.box_sources import boxes_source, truth_source
from vlmamba.data.clipart import CLIPART_DIRECTORIES, clipart
from vlmamba.data.cutouts import photographed, stamped
from vlmamba.data.dialogues import Dialogue
from vlmamba.data.drawn import Drawing
from vlmamba.data.emoji import emoji
from vlmamba.data.lettering import MASK
from vlmamba.data.made import made
from vlmamba.data.mixed_scenes import MixedScenes
from vlmamba.data.mixture import Mixture, Source, Texts
from vlmamba.data.near_duplicates import without_near_duplicates
from vlmamba.data.packs import Pack, find_packs, open_pack, square_pixels
from vlmamba.data.photos import (
    FASHION,
    class_name,
    coloured_source,
    fashion,
    fashion_files,
    named_source,
    photo_source,
    placed_source,
)  # fmt: skip
from vlmamba.data.scene_source import scenes_source
from vlmamba.data.words import FONT_DIRECTORIES, WordMasks, find_fonts, spelt
from vlmamba.processing import Processor

log = logging.getLogger("vlmamba")
# index -> a picture and a dialogue about it; must be picklable
Draw = Callable[[int], tuple[Image.Image, Dialogue]]

FASHION_DIRECTORIES = ("/usr/share/datasets/fashion-mnist",)
DICTIONARIES = ("/usr/share/dict/words",)
VALIDATION_ONLY = ("_dev", "_validation")
# Shares of a batch where answering is learnt and not seeing: names come fast from a tower that knows them, while
# counting, places and words want many examples.
ANSWERING = {
    "tiny64": 22, "cifar10": 10, "caltech101": 10, "clothing": 4, "iiit5k_train": 3, "nlvr_hidden": 1.5, "scenes": 18,
    "easy_vqa": 3, "boxes": 8, "drawn": 5, "words": 10,
}  # fmt: skip
LANDSCAPES = ("cliff", "lakeside", "seashore", "alp")  # grounds of composed scenes


def sign_source(pack: Pack, share: float, size: int, per_picture: int) -> Source:
    """Words cropped from photos of signs and posters."""
    texts = pack.meta["texts"]
    words = [texts[i] for i in pack.arrays["i"]]
    picture = np.repeat(np.arange(len(pack)), per_picture)
    told = [dialogues.about_word(words[k], words, random.Random(i)) for i, k in enumerate(picture)]
    letters = np.array([spelt(word) for word in words])
    pixels = square_pixels(pack, size)
    return Source(pack.name, pixels, picture, told, TEXT, share, letters=letters)


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


def fashion_source(directories: Sequence[str | Path], share: float) -> Source | None:
    """Fashion-MNIST's train split; None where none of the directories holds it."""
    directory = fashion_files(directories, "train")
    if directory is None:
        log.warning("Fashion-MNIST is not there, it is left out: see docs/training.md")
        return None
    pixels, classes = fashion(directory, "train")
    return named_source("fashion", pixels, classes, FASHION, share, "grey photo")


def drawn_source(name: str, draw: Draw, count: int, policy: Policy, share: float) -> Source:
    """`count` pictures that the package draws itself."""
    drawn = made(_Drawing(draw), count)
    pixels = np.stack([picture for picture, _ in drawn])
    return Source(name, pixels, np.arange(count), [told for _, told in drawn], policy, share)


@dataclass(frozen=True)
class _Drawing:
    """The pixels of an index and its dialogue; a class, because processes need what they can name."""

    draw: Draw

    def __call__(self, index: int) -> tuple[NDArray[np.uint8], Dialogue]:
        picture, told = self.draw(index)
        return np.asarray(picture.convert("RGB")), told


def words_source(lettering: WordMasks, count: int, share: float) -> Source:
    """`count` masks of words, which become pictures on the device."""
    masks, aspects, edges, words, told = zip(*made(lettering.draw, count), strict=True)
    letters = np.array([spelt(word) for word in words])
    return Source(
        "words", np.stack(masks), np.arange(count), told, TEXT, share,
        letters=letters, aspects=np.array(aspects, np.float32), edges=np.array(edges, np.float32),
    )  # fmt: skip


def training_packs(directory: str | Path) -> dict[str, Pack]:
    """The packs of a directory that may be trained on, without near-duplicates of validation pictures; packs for
    validation are never opened."""
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
    return {name: without_near_duplicates(open_pack(path)) for name, path in allowed.items()}


@dataclass(frozen=True)
class MiniPictures:
    """The mini's pictures and what is said about them: the packs of a directory, and what the package draws.

    packs: None: nothing but drawn shapes and boxes. gentle: photos keep most of their frame and shares are those of
    ANSWERING, as in the stages that teach answering.
    """

    packs: str | None = "packs"
    size: int = 128  # pixels
    drawn: int = 30_000  # pictures of shapes
    scenes: int = 100_000  # composed scenes
    boxes: int = 60_000  # pictures of three boxes
    words: int = 200_000  # masks of words
    seed: int = 0
    gentle: bool = False

    def sources(self) -> list[Source]:
        counts = Counts(self.drawn, self.scenes, self.boxes, self.words)
        sources = _sources(self.packs, self.size, counts, self.seed)
        if not self.gentle:
            return sources
        return [
            replace(
                s,
                policy=GENTLE_PHOTO if s.policy == PHOTO else s.policy,
                share=ANSWERING.get(s.name, s.share),
            )
            for s in sources
        ]

    def batches(self, processor: Processor, batch_size: int, max_length: int, seed: int) -> Batches:
        """Every batch on the device that trains; dialogues are cut by turns to fit `max_length`."""
        text = max_length - processor.num_patches
        return Mixture(self.sources(), processor, batch_size, self.size, seed, text, _device())

    def texts(self) -> Iterator[str]:
        """What a tokenizer learns from. Words to be read are left out, so that they are spelt in short pieces."""
        for source in self.sources():
            if source.letters is None:
                told = source.dialogues
                for dialogue in random.Random(self.seed).sample(told, min(len(told), 10_000)):
                    yield from (f"{question}\n {answer}" for question, answer in dialogue)


@dataclass(frozen=True)
class MiniPhotos(MiniPictures):
    """Only the pictures with classes, for a teacher."""

    def sources(self) -> list[Source]:
        return [source for source in super().sources() if source.num_classes]


@dataclass(frozen=True)
class MiniTexts(MiniPictures):
    """The same conversations without their pictures, for the language model alone."""

    count: int = 100_000  # conversations

    def batches(self, processor: Processor, batch_size: int, max_length: int, seed: int) -> Batches:
        told = [dialogue for source in self.sources() for dialogue in source.dialogues]
        chosen = random.Random(self.seed).sample(told, min(len(told), self.count))
        return Texts(chosen, processor, batch_size, seed, max_length, _device())


@dataclass(frozen=True)
class Counts:
    """How many pictures of each kind are made."""

    drawn: int
    scenes: int
    boxes: int
    words: int


@lru_cache(maxsize=1)
def _sources(packs: str | None, size: int, counts: Counts, seed: int) -> list[Source]:
    """Everything at hand, with its share of a batch; kept, since every stage of a run asks for it."""
    opened = {} if packs is None else training_packs(packs)
    boxes = boxes_source(BoxPictures(size, seed), counts.boxes, 5)
    drawn = drawn_source("drawn", Drawing(size=size, seed=seed).draw, counts.drawn, LAYOUT, 3)
    if packs is None:
        return [boxes, drawn]
    sets = _by_set(opened)
    found: list[Source | None] = []
    if tiny := sets.get("tiny64"):
        photos = photo_source(tiny, 36, 64, "photo", per_picture=2)
        found += [photos, placed_source(photos, tiny, 2)]
    if cifar := sets.get("cifar10"):
        found.append(photo_source(cifar, 16, 32, "small photo", per_picture=2))
    if caltech := sets.get("caltech101"):
        found.append(photo_source(caltech, 10, size, "picture", per_picture=12))
    if clothing := sets.get("clothing"):
        photos = photo_source(clothing, 5, size, "photo", per_picture=12)
        names = [class_name(label) for label in clothing[0].classes]
        found += [photos, coloured_source(photos, names, 1)]
    found.append(fashion_source((Path(packs) / "fashion-mnist", *FASHION_DIRECTORIES), 5))
    if signs := sets.get("iiit5k"):
        found.append(sign_source(signs[0], 2, size, per_picture=6))
    if nlvr := sets.get("nlvr"):
        found.append(truth_source(nlvr[0], size, 1))
    if tux := sets.get("tuxpaint"):
        drawn_things = emoji((*FONT_DIRECTORIES, Path(packs) / "fonts"))
        clips = clipart((Path(packs) / "openclipart", *CLIPART_DIRECTORIES))
        cutouts = (*stamped(tux[0]), *drawn_things, *clips, *photographed(sets))
        scenes = MixedScenes(cutouts, landscapes(tiny or []), size, seed)
        found.append(scenes_source(scenes, counts.scenes, 12))
    found += [easy_vqa_source(2), boxes, drawn]
    spoken = tuple(sorted({word for pack in opened.values() for word in _words(pack)}))
    dictionary = _dictionary((Path(packs) / "words.txt", *DICTIONARIES)) or spoken
    fonts = tuple(find_fonts((*FONT_DIRECTORIES, Path(packs) / "fonts")))
    lettering = WordMasks(dictionary, spoken, fonts, *MASK, seed)
    found.append(words_source(lettering, counts.words, 12))
    return [source for source in found if source is not None]


def landscapes(tiny: Sequence[Pack], count: int = 400) -> tuple[bytes, ...]:
    """Photographs of Tiny-ImageNet in which no single thing stands out, encoded."""
    found: list[bytes] = []
    for pack in tiny[:1]:
        names = pack.classes
        found += [pack.encoded(k) for k, y in enumerate(pack.arrays["y"]) if names[y] in LANDSCAPES]
    return tuple(found[:: max(1, len(found) // count)][:count])


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
