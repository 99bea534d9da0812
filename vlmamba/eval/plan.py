"""Which questions of a benchmark are asked, and together with which: always the same for the same files."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmamba.eval.task import Question
from vlmamba.eval.tasks import mmbench

LIMIT_SEED = 0
# Scored by the picture or by the group: part of one would not count.
_WHOLE = frozenset({"mme", "mmbench"})


@dataclass(frozen=True)
class Album:
    """A picture (a file, or its bytes, or none) with all the questions that are asked about it."""

    picture: Path | bytes | None
    questions: tuple[Question, ...]


def with_pictures(questions: Sequence[Question], files: dict[str, Path]) -> list[Question]:
    """The questions that can be asked: those whose picture is there, or that have none."""
    return [q for q in questions if not isinstance(q.image, str) or q.image in files]


def group_by_picture(questions: Sequence[Question], files: dict[str, Path]) -> list[Album]:
    """The albums of these questions, in the order of their first ones."""
    groups: dict[object, list[Question]] = {}
    pictures: dict[object, Path | bytes | None] = {}
    for number, question in enumerate(questions):
        image = question.image
        key = number if image is None else image
        pictures[key] = files[image] if isinstance(image, str) else image
        groups.setdefault(key, []).append(question)
    return [Album(pictures[key], tuple(group)) for key, group in groups.items()]


def limited(questions: Sequence[Question], limit: int, task: str) -> list[Question]:
    """At most `limit` questions, those of pictures drawn at random (the same ones each time), in their order.

    Benchmarks list their categories one after the other: the first questions would be of one kind. Where answers
    count by the picture or the group, none is cut, so there may be fewer, or more where even one has more.
    """
    units: dict[object, list[Question]] = {}
    for question in questions:
        units.setdefault(_unit(question, task), []).append(question)
    order = list(units.values())
    random.Random(LIMIT_SEED).shuffle(order)
    taken: set[str] = set()
    for unit in order:
        left = limit - len(taken)
        if left <= 0:
            break
        if task not in _WHOLE:
            unit = unit[:left]
        if len(unit) <= left or not taken:
            taken |= {question.id for question in unit}
    return [question for question in questions if question.id in taken]


def _unit(question: Question, task: str) -> object:
    """What a limit takes together: a picture's questions; in MMBench a question with its rotations."""
    if task == "mmbench":
        return question.gold["index"] % mmbench.ROTATION
    return question.id if question.image is None else question.image


def batches(albums: Sequence[Album], batch_size: int) -> Iterator[list[Album]]:
    """Whole albums, together at most `batch_size` questions; an album with more stands alone."""
    batch: list[Album] = []
    size = 0
    for album in albums:
        if batch and size + len(album.questions) > batch_size:
            yield batch
            batch, size = [], 0
        batch.append(album)
        size += len(album.questions)
    if batch:
        yield batch
