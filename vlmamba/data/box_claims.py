"""What statements about three boxes are put together from, in the forms that people used for NLVR (ACL 2017).

Each phrase comes with what it says of a box. The readings are those of NLVR's training sentences: a bare number of
towers or boxes is exact, "above" is right above. Where a sentence leaves it open (are there "two blue items" where
there are three?) a test gives None, and the statement is not made.
"""

import random
from collections.abc import Callable, Sequence

from vlmamba.data.boxes import INKS, Box

Truth = bool | None  # None: people would not agree
Phrase = tuple[str, Callable[[Box], Truth]]  # what a tower or a box has, and whether it has it
Claim = Callable[[list[Box], random.Random], tuple[str, Truth]]
NUMBER = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

OVER = ("above", "over", "on", "on top of")
UNDER = ("below", "under", "beneath", "bellow")


def number(n: int, rng: random.Random) -> str:
    return NUMBER[n] if rng.random() < 0.6 else str(n)


def amount_of(
    highest: int, rng: random.Random, exact: bool = False
) -> tuple[str, bool, Callable[[int], Truth]]:
    """A number with what is asked of it: the words, whether one thing is meant, and whether a count fits.

    exact: a bare number means so many and no more; otherwise it leaves that open.
    """
    n = rng.randint(1, highest)
    bare = (
        (lambda count: count == n) if exact else (lambda count: None if count > n else count == n)
    )
    forms: list[tuple[str, Callable[[int], Truth]]] = [
        ("", bare),
        ("", bare),
        ("exactly ", lambda count: count == n),
        ("only ", lambda count: count == n),
        ("at least ", lambda count: count >= n),
        ("at most ", lambda count: count <= n),
        ("more than ", lambda count: count > n),
        ("less than ", lambda count: count < n),
    ]
    word, fits = rng.choices(forms, (3, 3, 5, 3, 4, 0.5, 0.5, 0.5))[0]
    return word + number(n, rng), n == 1, fits


def plural(noun: str, one: bool) -> str:
    return noun if one else f"{noun}s"


def joined(first: Phrase, between: str, second: Phrase) -> Phrase:
    return first[0] + between + second[0], lambda box: both(first[1](box), second[1](box))


def both(one: Truth, other: Truth) -> Truth:
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def there(one: str, many: str, hits: Sequence[Truth], rng: random.Random) -> tuple[str, Truth]:
    """That there is one, or are so many, of the three things that `hits` tells of."""
    forms: list[tuple[str, Callable[[int], Truth]]] = [
        (f"there is a {one}", lambda n: n > 0),
        (f"there is {rng.choice(('at least one', 'at least 1'))} {one}", lambda n: n > 0),
        (f"there is {rng.choice(('exactly one', 'only one', 'one', '1'))} {one}", lambda n: n == 1),
        (f"there are {rng.choice(('two', '2', 'exactly two', 'exactly 2'))} {many}", lambda n: n == 2),
        (f"there are {rng.choice(('three', '3'))} {many}", lambda n: n == 3),
        (f"there are {rng.choice(('at least two', 'at least 2', 'atleast two'))} {many}", lambda n: n > 1),
        (f"there is no {one}", lambda n: n == 0),
    ]  # fmt: skip
    words, fits = rng.choices(forms, (8, 3, 6, 6, 2, 2, 2))[0]
    return words, None if None in hits else fits(sum(map(bool, hits)))


def some(noun: str, phrase: Phrase, boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    """How many of the three have it; noun: "tower", "box" and such."""
    has, test = phrase
    hits = [test(box) for box in boxes]
    many = f"{noun}es" if noun.endswith("box") else f"{noun}s"
    if rng.random() < 0.8:
        joined = rng.choice(("with", "with", "with", "that has", "which has"))
        return there(f"{noun} {joined} {has}", f"{many} with {has}", hits, rng)
    one_of = rng.choice((many, noun, f"three {many}"))
    verb = "has" if noun == "tower" else rng.choice(("has", "contains"))
    all_of = rng.choice(
        (
            f"every {noun} {verb}",
            f"each {noun} {verb}",
            f"all 3 {many} have",
            f"all the {many} have",
        )
    )
    forms: list[tuple[str, Callable[[int], Truth]]] = [
        (f"one of the {one_of} {verb} {has}", lambda n: None if n > 1 else n == 1),
        (f"two of the three {many} have {has}", lambda n: n == 2),
        (f"{all_of} {has}", lambda n: n == 3),
        (f"none of the {many} {verb} {has}", lambda n: n == 0),
    ]
    words, fits = rng.choice(forms)
    return words, None if None in hits else fits(sum(map(bool, hits)))


def colour_of(rng: random.Random) -> str:
    return rng.choice(list(INKS))


def inks(box: Box) -> set[str]:
    return {item.colour for item in box}
