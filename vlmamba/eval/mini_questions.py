"""What a mini model is asked: by validation pack, and on scenes composed of cut-outs that were never learnt from.

`bench/mini_quality.py` asks all of it of one model, `vlmamba ablate` a part of it of many. Pictures are decoded when
they are needed.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from vlmamba.data import kinds
from vlmamba.data.dialogues import with_article
from vlmamba.data.made import made
from vlmamba.data.mini import FASHION_DIRECTORIES, VALIDATION_ONLY, easy_vqa, landscapes
from vlmamba.data.packs import Pack, find_packs, open_pack
from vlmamba.data.photos import FASHION, class_name, fashion, fashion_files
from vlmamba.data.scenes import Scenes, stamps
from vlmamba.data.wordings import ABSENT_SAID, NONSENSE, UNKNOWN

# Wordings and questions that training never uses.
UNSEEN_NAMING = (
    "Could you identify what appears here?", "Which item does this photograph contain?",
    "Say in a word what you are seeing.", "What would a person call the thing in this shot?",
    "What has the camera captured?", "So, what is it that we have here?",
)  # fmt: skip
UNSEEN_UNANSWERABLE = (
    "Who is the author of this work?", "How many people have seen this photo?", "What was here a year ago?",
    "How much money does the owner earn?", "What is the square root of nine?", "Which song is playing?",
    "What is the name of my sister?", "When will the train arrive?", "qpwoe zmxn alsk", "blip blop fnord",
)  # fmt: skip
HONEST = (UNKNOWN, NONSENSE, "I only answer questions about pictures.")


@dataclass(frozen=True)
class Question:
    """One question about one picture, and the answer that counts; "" for any honest way to say that there is none."""

    picture: Image.Image
    text: str
    answer: str

    def counts(self, answer: str) -> bool:
        if self.answer:
            return plain(answer) == plain(self.answer)
        return answer in HONEST or answer.startswith(ABSENT_SAID.split("{")[0])


def plain(answer: str) -> str:
    """An answer as it is compared: lower case, without leading article and final full stop."""
    answer = answer.strip().rstrip(".").lower()
    for article in ("a ", "an ", "the "):
        if answer.startswith(article):
            return answer[len(article) :]
    return answer


def naming(pack: Pack, wordings: tuple[str, ...] = ("What is this?",)) -> list[Question]:
    names = _names(pack)
    return [
        Question(_picture(pack, k), wordings[k % len(wordings)], names[k]) for k in range(len(pack))
    ]


def reading(pack: Pack) -> list[Question]:
    texts = pack.meta["texts"]
    return [
        Question(_picture(pack, k), "What does it say?", texts[pack.arrays["i"][k]])
        for k in range(len(pack))
    ]


def truth(pack: Pack) -> list[Question]:
    questions = []
    for k in range(len(pack)):
        item = pack.meta["items"][pack.arrays["i"][k]]
        answer = "yes" if item["label"] == "true" else "no"
        questions.append(Question(_picture(pack, k), f"Is this true? {item['sentence']}", answer))
    return questions


def presence(pack: Pack, same_kind: bool) -> list[Question]:
    """ "Is there a ...?", half yes; absentees at random, or of the kind of what is there, where there are such."""
    names, rng = _names(pack), random.Random(0)
    every = sorted(set(names))
    questions = []
    for k, name in enumerate(names):
        absent = kinds.alike(name, every) if same_kind else [n for n in every if n != name]
        if not absent:
            continue
        there = rng.random() < 0.5
        asked = with_article(name if there else rng.choice(absent))
        text = f"Is there {asked} in the picture?"
        questions.append(Question(_picture(pack, k), text, "yes" if there else "no"))
    return questions


def unanswerable(pack: Pack) -> list[Question]:
    rows = range(0, len(pack), max(1, len(pack) // 200))
    return [
        Question(_picture(pack, k), UNSEEN_UNANSWERABLE[i % len(UNSEEN_UNANSWERABLE)], "")
        for i, k in enumerate(rows)
    ]


def composed(stamp_pack: Pack, tiny: list[Pack], form: str, count: int = 500) -> list[Question]:
    """Counting or relations on scenes of stamps that no training scene shows."""
    _, held = stamps(stamp_pack)
    scenes = Scenes(tuple(held), landscapes(tiny), 128, seed=1)
    return [Question(*drawn) for drawn in made(partial(scenes.exam, form=form), count, chunk=64)]


def question_sets(
    data: Path | None, composed_count: int = 500
) -> Iterator[tuple[str, Callable[[], list[Question]]]]:
    """The sets at hand, one after the other, each made when it is asked for; `composed_count` scenes are composed."""
    packs = find_packs(data) if data else {}
    held = {
        name.split("_")[0]: (name, path)
        for name, path in packs.items()
        if any(mark in name for mark in VALIDATION_ONLY)
    }
    for kind, ask in (
        ("cifar10", naming), ("caltech101", naming), ("clothing", naming), ("tiny64", naming), ("iiit5k", reading),
        ("nlvr", truth),
    ):  # fmt: skip
        if kind in held:
            name, path = held[kind]
            yield name, lambda path=path, ask=ask: ask(open_pack(path))
    pictures, asked = easy_vqa("test")
    if asked:
        yield "easy_vqa_test", lambda: [Question(pictures[i], text, a) for text, a, i in asked]
    directory = fashion_files(
        (*([data / "fashion-mnist"] if data else []), *FASHION_DIRECTORIES), "t10k"
    )
    if directory is not None:
        yield "fashion_test", lambda: _fashion(directory)
    for kind in ("caltech101", "tiny64"):
        if kind in held:
            path = held[kind][1]
            yield f"yes_no_{kind}_random", lambda path=path: presence(open_pack(path), False)
            yield f"yes_no_{kind}_same_kind", lambda path=path: presence(open_pack(path), True)
    if "tuxpaint_160_rgba" in packs:
        tux = packs["tuxpaint_160_rgba"]
        tiny = [held["tiny64"][1]] if "tiny64" in held else []
        for name, form in (("counting_held_out", "count"), ("relations_held_out", "relation")):
            yield (
                name,
                lambda form=form: composed(
                    open_pack(tux), [*map(open_pack, tiny)], form, composed_count
                ),
            )
    for kind in ("caltech101", "cifar10"):
        if kind in held:
            path = held[kind][1]
            yield (
                f"unseen_wording_{kind}",
                lambda path=path: naming(open_pack(path), UNSEEN_NAMING),
            )
    if "caltech101" in held:
        yield "unanswerable", lambda: unanswerable(open_pack(held["caltech101"][1]))


def _fashion(directory: Path) -> list[Question]:
    pixels, classes = fashion(directory, "t10k")
    return [
        Question(Image.fromarray(p), "What is this?", FASHION[c])
        for p, c in zip(pixels, classes, strict=True)
    ]


def _names(pack: Pack) -> list[str]:
    names = [class_name(label) for label in pack.classes]
    return [names[y] for y in pack.arrays["y"]]


def _picture(pack: Pack, k: int) -> Image.Image:
    return pack.picture(k)
