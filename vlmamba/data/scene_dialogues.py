"""Questions about scenes put together from things: how many of a kind there are, and what stands where."""

import random
from collections.abc import Sequence
from typing import Protocol

from vlmamba.data.dialogues import Dialogue, asked, naming, with_article
from vlmamba.data.wordings import (
    BESIDE,
    COUNTING,
    DESCRIBING,
    EITHER,
    KIND_ASKED,
    RELATED,
    YES_OR_NO,
)

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Thing(Protocol):
    """What a scene shows: its name ("": none to be asked by) and its kind ("": none that is asked for)."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...


def single_told(thing: Thing, rng: random.Random) -> Dialogue:
    """One thing: its name, its kind."""
    turns = [naming(thing.name, rng)] if thing.name else []
    if not turns or rng.random() < 0.5:
        turns.append((asked(KIND_ASKED, rng), thing.kind))
    return turns


def crowd_told(things: Sequence[Thing], others: Sequence[Thing], rng: random.Random) -> Dialogue:
    """How many `things` there are, which are of one kind, among `others`."""
    count, kind = len(things), things[0].kind
    names = {thing.name for thing in things}
    counted = rng.choice(
        (kind, kind, kind, *(names if len(names) == 1 and "" not in names else ()))
    )
    turns = [_how_many(counted, count, rng)]
    other_kinds = {thing.kind for thing in others}
    if len(other_kinds) == 1 and others[0].kind and rng.random() < 0.6:
        turns.append(_how_many(others[0].kind, len(others), rng))
    if rng.random() < 0.35:
        turns.append(_how_many(rng.choice(("thing", "object")), count + len(others), rng))
    if rng.random() < 0.3:
        wrong = rng.choice([n for n in range(1, 7) if n != count])
        said = count if rng.random() < 0.5 else wrong
        words = f"{NUMBERS[said]} {counted if said == 1 else plural(counted)}"
        question = f"{'Is' if said == 1 else 'Are'} there {rng.choice(('', 'exactly '))}{words}?"
        turns.append((question + rng.choice(YES_OR_NO), "yes" if said == count else "no"))
    if rng.random() < 0.15:
        turns.append(
            (rng.choice(DESCRIBING), _sentence(f"{NUMBERS[count]} {counted if count == 1 else plural(counted)}"))
        )  # fmt: skip
    rng.shuffle(turns)
    return turns


def _how_many(name: str, count: int, rng: random.Random) -> tuple[str, str]:
    return asked(COUNTING, rng, s=plural(name)), str(count)


def pair_told(
    one: Thing, other: Thing, relation: str, rng: random.Random, alone: bool = True
) -> Dialogue:
    """Two things of different kinds, of which `one` is `relation` the other; alone: the scene shows no third one."""
    if rng.random() < 0.5:
        one, other, relation = other, one, OPPOSITE[relation]
    by_name = one.name and other.name and rng.random() < 0.35
    a, b = (one.name, other.name) if by_name else (one.kind, other.kind)
    first, second = rng.sample((relation, OPPOSITE[relation]), 2)
    either = asked(EITHER, rng, a=a, b=b, one=first, other=second)
    told = relation if rng.random() < 0.5 else OPPOSITE[relation]
    related = asked(RELATED, rng, a=a, an_a=with_article(a), b=b, one=told)
    this, that = (with_article(thing.name or thing.kind) for thing in (one, other))
    turns = [
        (either, relation.removesuffix(" of")),
        (either, relation.removesuffix(" of")),
        (related + rng.choice(YES_OR_NO), "yes" if told == relation else "no"),
    ]
    if alone:
        turns += [
            (asked(BESIDE, rng, one=relation, b=b), this),
            (rng.choice(DESCRIBING), _sentence(f"{this} {relation} {that}")),
        ]
    return list(dict.fromkeys(rng.sample(turns, 3)))


def plural(name: str) -> str:
    """The plural of a thing's name."""
    if name.endswith("man"):
        return name[:-3] + "men"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return name[:-1] + "ies"
    if name.endswith(("s", "x", "ch", "sh", "z")):
        return name + "es"
    irregular = {
        "fish": "fish",
        "fruit": "fruits",
        "sheep": "sheep",
        "mouse": "mice",
        "goose": "geese",
    }
    return irregular.get(name, name + "s")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."
