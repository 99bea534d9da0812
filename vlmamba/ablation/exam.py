"""What every row is asked: a part of the mini's validation questions, and drawn pictures in which places matter."""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from vlmamba.data.box_pictures import BoxPictures
from vlmamba.data.drawn import Drawing
from vlmamba.data.made import made
from vlmamba.data.mini import Draw
from vlmamba.data.painting import Scene
from vlmamba.data.wordings import DESCRIBING
from vlmamba.engine.forward import decode, prefill
from vlmamba.eval.mini_questions import Question, question_sets
from vlmamba.model import VLMamba
from vlmamba.pictures import open_picture
from vlmamba.processing import Processor

# Sets by what they ask for; a set of another name belongs to the last kind.
KINDS = {
    "naming": ("cifar10", "caltech101", "clothing", "tiny64", "fashion_test"),
    "yes or no": ("yes_no_",),
    "reading": ("iiit5k", "drawn_words"),
    "places and counts": (),
}
LEFT_OUT = ("unseen_wording", "unanswerable")  # other questions than those that all rows learn from
DRAWN: dict[str, Scene] = {
    "drawn_places": "place",
    "drawn_counts": "count",
    "drawn_sizes": "compare",
    "drawn_words": "word",
    "drawn_shapes": "shape",
}
SEED = 1  # of drawn pictures; training draws with 0
LONGEST_ANSWER = 16  # tokens
BATCH = 1024  # questions answered at once


def kind_of(name: str) -> str:
    """The kind of a set of questions."""
    for kind, beginnings in KINDS.items():
        if name.startswith(beginnings):
            return kind
    return list(KINDS)[-1]


def find_sets(packs: str | None, size: int, limit: int) -> dict[str, list[Question]]:
    """At most `limit` questions of every set that is at hand, always the same ones."""
    sets: dict[str, list[Question]] = {}
    for name, make in _all_sets(packs, size, limit):
        questions = make()
        if len(questions) > limit:
            questions = random.Random(0).sample(questions, limit)
        sets[name] = questions
    return sets


def _all_sets(
    packs: str | None, size: int, limit: int
) -> Iterator[tuple[str, Callable[[], list[Question]]]]:
    if packs is not None:
        for name, make in question_sets(Path(packs), composed_count=limit):
            if not name.startswith(LEFT_OUT):
                yield name, make
    for name, scene in DRAWN.items():
        yield name, partial(_drawn, Drawing(size=size, seed=SEED, scenes=(scene,)).draw, limit)
    yield "boxes", partial(_drawn, BoxPictures(size, SEED).draw, limit)


def _drawn(draw: Draw, count: int) -> list[Question]:
    """The first question about each picture that is not to describe it."""
    questions = []
    for picture, dialogue in made(draw, count, chunk=64):
        text, answer = next(turn for turn in dialogue if turn[0] not in DESCRIBING)
        questions.append(Question(picture, text, answer))
    return questions


@dataclass(frozen=True)
class Exam:
    """The questions of all sets, one set after the other, the ids of their words, and their pictures as a tower takes
    them (n, c, h, w)."""

    counts: dict[str, int]
    questions: list[Question]
    prompts: list[list[int]]
    pixel_values: Tensor

    @classmethod
    def prepare(
        cls, sets: dict[str, list[Question]], processor: Processor, device: torch.device
    ) -> "Exam":
        """Decodes the pictures; they stay on the device in half precision, which holds their 8 bits."""
        questions = [question for asked in sets.values() for question in asked]
        parts = [questions[i : i + 64] for i in range(0, len(questions), 64)]

        def pixels(part: Sequence[Question]) -> Tensor:
            return processor.pixel_values([open_picture(q.picture) for q in part]).half()

        with ThreadPoolExecutor() as pool:
            pixel_values = torch.cat(list(pool.map(pixels, parts))).to(device)
        prompts = [processor.continue_ids(question.text) for question in questions]
        counts = {name: len(asked) for name, asked in sets.items()}
        return cls(counts, questions, prompts, pixel_values)

    @property
    def digest(self) -> str:
        """One hash of everything that is asked: outcomes can be compared where it is equal."""
        asked = "\n".join(f"{q.text}\t{q.answer}" for q in self.questions)
        return sha256(f"{self.counts}\n{asked}".encode()).hexdigest()[:16]

    def take(self, model: VLMamba, processor: Processor, features: Tensor) -> dict[str, list[int]]:
        """1 for every right answer and 0 for every wrong one, by set. features (n, p, d): the tower's, question by
        question."""
        order = sorted(range(len(self.prompts)), key=lambda k: len(self.prompts[k]))
        right = [0] * len(order)
        decoded = cache(processor.decode)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            prompts = [self.prompts[k] for k in rows]
            for k, ids in zip(
                rows, _answers(model, processor, features[rows], prompts), strict=True
            ):
                right[k] = int(self.questions[k].counts(decoded(ids)))
        outcomes, start = {}, 0
        for name, count in self.counts.items():
            outcomes[name] = right[start : start + count]
            start += count
        return outcomes


@torch.no_grad()
def _answers(
    model: VLMamba, processor: Processor, features: Tensor, prompts: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """The likeliest answers, up to their end, to questions about pictures that the tower has seen already."""
    device, pad, prefix = model.device, processor.pad_token_id, processor.prefix_ids(1)
    longest = max(map(len, prompts))
    rows = [[*prefix, *ids, *[pad] * (longest - len(ids))] for ids in prompts]
    lengths = torch.tensor([len(prefix) + len(ids) for ids in prompts])
    mask = (torch.arange(len(prefix) + longest) < lengths[:, None]).to(device)
    core = model.model
    pictures = core.connector(features.to(model.dtype), model.config.vision.grid)
    embeds = core.embed(torch.tensor(rows, device=device), image_embeds=pictures)
    state = model.allocate_state(len(rows))
    logits = prefill(model, embeds, mask, state)
    written, ended = [], torch.zeros(len(rows), dtype=torch.bool, device=device)
    for _ in range(LONGEST_ANSWER):
        logits[:, processor.image_token_id] = float("-inf")
        tokens = logits.argmax(1)
        written.append(tokens)
        ended |= tokens == processor.eos_token_id
        if bool(ended.all()):
            break
        logits = decode(model, tokens, state)
    eos = processor.eos_token_id
    said = torch.stack(written, 1).tolist()
    return [tuple(ids[: ids.index(eos)] if eos in ids else ids) for ids in said]
