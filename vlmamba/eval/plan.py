"""Which questions of a benchmark are asked, and together with which: always the same for the same files."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmamba.eval.task import Question

LIMIT_SEED = 0
# Scored by the picture or by the group: part of one would not count.
_WHOLE = frozenset({"mme", "mmbench"})


@dataclass(frozen=True)
class Album:
    """A picture (a file, or its bytes, or none) with all the questions that are asked about it."""

    picture: Path | bytes | None
    questions: tuple[Question, ...]


def group_by_picture(questions: Sequence[Question], files: dict[str, Path]) -> list[Album]:
    """The albums in the order of their first questions; a question whose picture is not there is left out."""
    groups: dict[object, list[Question]] = {}
    pictures: dict[object, Path | bytes | None] = {}
    for number, question in enumerate(questions):
        image = question.image
        if isinstance(image, str) and image not in files:
            continue
        key = number if image is None else image
        pictures[key] = files[image] if isinstance(image, str) else image
        groups.setdefault(key, []).append(question)
    return [Album(pictures[key], tuple(group)) for key, group in groups.items()]


def limited(albums: Sequence[Album], limit: int, task: str) -> list[Album]:
    """At most `limit` questions, those of pictures drawn at random (the same ones each time).

    Benchmarks list their categories one after the other: the first questions would be of one kind. Where answers
    count by the picture or the group, no album is cut, so there may be fewer, or more where even one album has more.
    """
    order = list(range(len(albums)))
    random.Random(LIMIT_SEED).shuffle(order)
    taken: dict[int, Album] = {}
    left = limit
    for number in order:
        album = albums[number]
        if task not in _WHOLE:
            album = Album(album.picture, album.questions[:left])
        if album.questions and (len(album.questions) <= left or not taken):
            taken[number] = album
            left -= len(album.questions)
        if left <= 0:
            break
    return [taken[number] for number in sorted(taken)]


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
