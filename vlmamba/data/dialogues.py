"""Questions and answers about a picture whose content is known, in many wordings.

Every function is pure: the same `rng` state gives the same dialogue. The wording decides the form of the
answer: a name, yes or no, a letter, a sentence.
"""

import random
from collections.abc import Sequence

from vlmamba.data import kinds
from vlmamba.data.manners import put
from vlmamba.data.phrases import Phrases
from vlmamba.data.unanswerable import ABOUT_THING, ABSENT_ASKED, CHATTING, UNANSWERABLE
from vlmamba.data.wordings import (
    ABSENT_SAID,
    CHOOSING,
    COLOUR,
    DESCRIPTION,
    EXISTENCE,
    KIND_ASKED,
    NAMING,
    NONSENSE,
    PLAIN_NAMING,
    READING,
    SAYING,
    SHORTLY,
    SPELLING,
    TRUTH,
    UNKNOWN,
    WHERE,
    YES_OR_NO,
)  # fmt: skip

Dialogue = list[tuple[str, str]]  # question, answer


def with_article(name: str) -> str:
    """`name` as a sentence has it: "an accordion", "a dress", but "pants" and "scissors" stand alone."""
    if name in ("outerwear", "food", "clothing", "brass", "mashed potato") or (
        name.endswith("s") and not name.endswith(("ss", "us", "is", "octopus", "brontosaurus"))
    ):
        return name
    return f"{'an' if name[:1].lower() in 'aeio' or name in ('umbrella', 'urchin') else 'a'} {name}"


def asked(wordings: Phrases, rng: random.Random, **names: str) -> str:
    """One of the wordings, put in some way; names stand as they are."""
    return put(wordings.draw(rng), rng).format(**names)


def naming(name: str, rng: random.Random) -> tuple[str, str]:
    question = rng.choice(PLAIN_NAMING) if rng.random() < 0.25 else asked(NAMING, rng)
    return question + rng.choice(SHORTLY), name


def existence(name: str, absent: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Half yes, half no; `absent` are names of things that the picture does not show."""
    present = rng.random() < 0.5
    told = name if present else rng.choice(absent)
    question = asked(EXISTENCE, rng, a=with_article(told)) + rng.choice(YES_OR_NO)
    return question, "yes" if present else "no"


def kind_of(name: str, rng: random.Random) -> tuple[str, str] | None:
    """What kind of thing it is, or whether it is of some kind; None where no kind is known."""
    own = kinds.kinds(name)
    if not own:
        return None
    if rng.random() < 0.4:
        return asked(KIND_ASKED, rng) + rng.choice(SHORTLY), own[-1]
    is_one = rng.random() < 0.5
    kind = rng.choice(own if is_one else [k for k in kinds.SAID if k not in own])
    question = asked(EXISTENCE, rng, a=with_article(kind)) + rng.choice(YES_OR_NO)
    return question, "yes" if is_one else "no"


def describing(name: str, what: str, rng: random.Random) -> tuple[str, str]:
    """`what` is "photo", "small photo", "picture" ..."""
    return asked(DESCRIPTION, rng), f"A {what} of {with_article(name)}."


def choosing(name: str, absent: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Multiple choice, answered by letter."""
    options = [*rng.sample(list(absent), min(len(absent), rng.choice((1, 2, 3)))), name]
    rng.shuffle(options)
    pattern, mark, between = rng.choice(CHOOSING)
    listed = between.join(mark.format(l="ABCD"[k], o=option) for k, option in enumerate(options))
    return pattern.format(options=listed), "ABCD"[options.index(name)]


def unanswerable(name: str, absent: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """What a picture of `name` cannot tell, what it does not show, what means nothing, and small talk."""
    draw = rng.random()
    if draw < 0.55:
        return asked(UNANSWERABLE, rng), UNKNOWN
    if draw < 0.65:
        return asked(ABOUT_THING, rng, n=name), UNKNOWN
    if draw < 0.85:
        other = rng.choice(absent)
        wordings = ABSENT_ASKED if rng.random() < 0.6 else ABOUT_THING
        return asked(wordings, rng, n=other), ABSENT_SAID.format(a=with_article(other))
    if draw < 0.92:
        return nonsense(rng), NONSENSE
    wordings, answer = rng.choice(CHATTING)
    return asked(wordings, rng), answer


def nonsense(rng: random.Random) -> str:
    """Letters at random, or words that sound like words."""
    if rng.random() < 0.5:
        return "".join(
            rng.choice("abcdefghijklmnopqrstuvwxyz  ") for _ in range(rng.randint(4, 16))
        )
    syllables = (
        "".join(map(rng.choice, ("bdfglmprtwz", "aeiou", "bdgklmnprstx"))) for _ in range(9)
    )
    return " ".join(
        "".join(next(syllables) for _ in range(rng.choice((1, 1, 2))))
        for _ in range(rng.choice((2, 3, 4)))
    )


def about_object(
    name: str, names: Sequence[str], what: str, rng: random.Random, turns: int = 3
) -> Dialogue:
    """A dialogue about a picture of one thing, out of a set that has `names`: no form comes twice but the yes-or-no
    questions, whose absentees are any other name or one of the same kind."""
    absent = [other for other in names if other != name]
    alike = kinds.alike(name, list(names)) or absent
    forms = [
        "name",
        "name",
        "name",
        "any",
        "alike",
        "alike",
        "kind",
        "describe",
        "choose",
        "nothing",
    ]
    dialogue: Dialogue = []
    for form in dict.fromkeys(rng.choices(forms, k=turns)):
        match form:
            case "name":
                dialogue.append(naming(name, rng))
            case "any":
                dialogue.append(existence(name, absent, rng))
            case "alike":
                dialogue.append(existence(name, alike, rng))
            case "describe":
                dialogue.append(describing(name, what, rng))
            case "choose":
                some = alike if rng.random() < 0.3 else absent
                dialogue.append(choosing(name, list(dict.fromkeys(some)), rng))
                dialogue.append(naming(name, rng))  # stays where the choice is too long
            case "kind":
                dialogue.append(kind_of(name, rng) or naming(name, rng))
            case _:
                dialogue.append(unanswerable(name, absent, rng))
    return dialogue or [naming(name, rng)]


def placed(name: str, place: str, rng: random.Random) -> Dialogue:
    """Where the one thing in a picture is, before or after its name."""
    dialogue = [(asked(WHERE, rng, n=name), place)]
    if rng.random() < 0.4:
        dialogue.append(naming(name, rng))
        rng.shuffle(dialogue)
    return dialogue


def coloured(name: str, colour: str, what: str, rng: random.Random) -> Dialogue:
    """The colour of the one thing in a picture."""
    turns = [(asked(COLOUR, rng, n=name) + rng.choice(SHORTLY[:6]), colour)]
    if rng.random() < 0.3:
        turns.append((asked(DESCRIPTION, rng), f"A {what} of {with_article(f'{colour} {name}')}."))
    elif rng.random() < 0.3:
        turns.append(naming(name, rng))
    return turns


def about_word(word: str, others: Sequence[str], rng: random.Random) -> Dialogue:
    """A dialogue about a picture of one written word."""
    reading = (asked(READING, rng), word)
    draw = rng.random()
    if draw < 0.75:
        return [reading]
    if draw < 0.9:
        said = word if rng.random() < 0.5 else rng.choice(others)
        question = asked(SAYING, rng, w=said) + rng.choice(YES_OR_NO)
        return [(question, "yes" if said == word else "no"), reading]
    pattern, answer = rng.choice(SPELLING)
    return [(pattern, answer(word)), reading]


def truth(statement: str, holds: bool, rng: random.Random) -> tuple[str, str]:
    """Whether a statement about the picture is true."""
    pattern, yes, no = rng.choice(TRUTH)
    return pattern.format(s=statement), yes if holds else no
