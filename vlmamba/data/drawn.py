"""Pictures that the package draws itself: coloured shapes, their counts and places, and written words.

Everything that a picture shows is known, so every question about it has one right answer. A picture and its
dialogue are a pure function of (settings, seed, index); nothing is read from the disk.
"""

import math
import random
from dataclasses import dataclass

from PIL import Image

from vlmamba.data.dialogues import Dialogue, with_article
from vlmamba.data.painting import COLOURS, SCENES, SHAPES, Contents, Scene, Thing, paint
from vlmamba.data.wordings import DESCRIBING

BACKGROUNDS = ("white", "black", "gray", "yellow", "blue", "green", "pink")
WORDS = (
    "apple bank bird blue boat book bread bus cake car cat chair city clock cloud coffee cold cup dance day "
    "dog door down east exit fire fish five flower food fox free fresh game garden gate gold good grape green "
    "hall happy hat help hello home honey hot hotel house ice in jam juice jump key king kiwi lamp leaf lemon "
    "light lion love map market milk moon mouse music new night nine no north ocean office old one open orange "
    "out owl park pear pen pizza plane play pull push quick radio rain red river road rose sale salt school "
    "sea seven shoe shop six sky slow snow south star stop street sugar summer sun taxi tea ten three tiger "
    "time to toy train tree two under up wall warm water way welcome west white wind winter wolf wood yes zebra zoo"
).split()

# Wordings; `c` a colour, `s` a shape, `S` its plural, `a` a shape or coloured shape with its article.
ASK_COLOUR = (
    "What color is the {s}?", "What colour is the {s}?", "Which color does the {s} have?",
    "What is the color of the {s}?", "Name the color of the {s}.",
)  # fmt: skip
ASK_SHAPE = (
    "What shape is it?", "Which shape is this?", "What shape is in the picture?", "Name the shape.",
    "What is the shape?", "What shape does the image show?", "What shape do you see?",
)  # fmt: skip
ASK_SHAPE_OF_COLOUR = (
    "What is the {c} shape?", "What shape is {c}?", "Which shape is {c}?", "What is the shape of the {c} object?",
)  # fmt: skip
ASK_BACKGROUND = (
    "What color is the background?", "What colour is the background?", "On what color is it drawn?",
)  # fmt: skip
ASK_PRESENT = (
    "Is there {a}?", "Is there {a} in the picture?", "Is there {a} in the image?", "Do you see {a}?",
    "Does the image contain {a}?", "Does the picture show {a}?", "Can you see {a} here?", "Is {a} present?",
)  # fmt: skip
ASK_COUNT = (
    "How many {S} are there?", "How many {S} are in the picture?", "How many {S} do you see?",
    "Count the {S}.", "What is the number of {S}?",
)  # fmt: skip
ASK_WHERE = (
    "Where is the {s}?",
    "In which part of the picture is the {s}?",
    "Where do you see the {s}?",
)
ASK_RELATION = (
    "Is the {s} {relation} the {t}?", "Is the {s} placed {relation} the {t}?",
)  # fmt: skip
ASK_WHERE_TO = ("Where is the {s}, seen from the {t}?", "Where is the {s} relative to the {t}?")
ASK_SIZE = ("Which shape is {size}?", "Which is {size}?", "What is the {size} shape?")
ASK_WORD = (
    "What does it say?", "What is written here?", "What does the sign say?", "Read the text.", "Read the word.",
    "What word is this?", "What is the text in the picture?", "Which word is written in the image?",
    "What text do you see?", "Transcribe the text.",
)  # fmt: skip
ASK_SAYS = ("Does it say {w}?", "Is the word {w} written here?", "Does the text read {w}?")
ASK_TEXT_COLOUR = (
    "What color is the text?",
    "What colour is the word?",
    "In what color is it written?",
)
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class Drawing:
    """What may be drawn, and how large. `draw(index)` is a pure function of these settings and the index."""

    size: int = 64
    seed: int = 0
    scenes: tuple[Scene, ...] = SCENES
    shapes: tuple[str, ...] = SHAPES
    colours: tuple[str, ...] = tuple(COLOURS)
    backgrounds: tuple[str, ...] = BACKGROUNDS
    max_count: int = 6
    words: tuple[str, ...] = tuple(WORDS)
    turns: int = 3  # of a dialogue, at most

    def __post_init__(self) -> None:
        for name, known in (("scenes", SCENES), ("shapes", SHAPES), ("colours", tuple(COLOURS))):
            unknown = set(getattr(self, name)) - set(known)
            if unknown or not getattr(self, name):
                raise ValueError(
                    f"{name} must be some of {', '.join(known)}; got {sorted(unknown)}"
                )
        if not 1 <= self.max_count <= len(NUMBERS) - 1:
            raise ValueError(f"max_count must be 1 to {len(NUMBERS) - 1}, got {self.max_count}")

    def draw(self, index: int) -> tuple[Image.Image, Dialogue]:
        """Picture number `index` and a dialogue about it."""
        return self.picture(index), self.dialogue(index)

    def picture(self, index: int) -> Image.Image:
        return paint(self.contents(index), self.size)

    def dialogue(self, index: int) -> Dialogue:
        return self.ask(self.contents(index), random.Random(f"{self.seed}/{index}/words"))

    def contents(self, index: int) -> Contents:
        """What picture number `index` shows."""
        return self.compose(random.Random(f"{self.seed}/{index}"))

    def compose(self, rng: random.Random) -> Contents:
        scene = rng.choice(self.scenes)
        background = rng.choice(self.backgrounds)
        colours = [c for c in self.colours if _distance(c, background) > 120]
        match scene:
            case "shape":
                x, y, r = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6), rng.uniform(0.18, 0.38)
                things = [Thing(rng.choice(self.shapes), rng.choice(colours), x, y, r)]
            case "count":
                things = self._crowd(rng, colours)
            case "place":
                things = self._places(rng, colours)
            case "compare":
                things = self._sizes(rng, colours)
            case "word":
                word = rng.choice(self.words)
                word = rng.choice((word, word, word.upper(), word.capitalize()))
                return Contents(scene, background, (), word, rng.choice(colours))
        return Contents(scene, background, tuple(things))

    def _crowd(self, rng: random.Random, colours: list[str]) -> list[Thing]:
        """1 to `max_count` of one shape, and a few of another, in the cells of a 3 x 3 grid."""
        shape, other = rng.sample(self.shapes, 2)
        count = rng.randint(1, self.max_count)
        others = rng.randint(0, min(3, 9 - count))
        one_colour = rng.choice(colours) if rng.random() < 0.6 else None
        things = []
        cells = rng.sample(range(9), count + others)
        for k, cell in enumerate(cells):
            x, y = (cell % 3 + 0.5) / 3, (cell // 3 + 0.5) / 3
            x, y = x + rng.uniform(-0.035, 0.035), y + rng.uniform(-0.035, 0.035)
            colour = one_colour or rng.choice(colours)
            things.append(
                Thing(shape if k < count else other, colour, x, y, rng.uniform(0.09, 0.125))
            )
        return things

    def _places(self, rng: random.Random, colours: list[str]) -> list[Thing]:
        """One or two different shapes, each in one of nine places; two share a row or a column."""
        count = rng.choice((1, 2))
        cells = rng.sample(range(3), count)
        across, down = rng.choice(((1, 3), (3, 1)))
        line = rng.randrange(3)
        cells = [down * line + across * cell for cell in cells]
        shapes, inks = rng.sample(self.shapes, count), rng.sample(colours, count)
        places = (0.19, 0.5, 0.81)
        return [
            Thing(
                shape, colour,
                places[cell % 3] + rng.uniform(-0.05, 0.05),
                places[cell // 3] + rng.uniform(-0.05, 0.05),
                rng.uniform(0.1, 0.14),
            )
            for shape, colour, cell in zip(shapes, inks, cells, strict=True)
        ]  # fmt: skip

    def _sizes(self, rng: random.Random, colours: list[str]) -> list[Thing]:
        """Two different shapes side by side or one above the other, one plainly larger."""
        shapes, inks = rng.sample(self.shapes, 2), rng.sample(colours, 2)
        radii = rng.sample((rng.uniform(0.19, 0.23), rng.uniform(0.08, 0.11)), 2)
        at = [(0.26, 0.5), (0.75, 0.5)] if rng.random() < 0.5 else [(0.5, 0.26), (0.5, 0.75)]
        return [
            Thing(shape, colour, x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02), r)
            for shape, colour, (x, y), r in zip(shapes, inks, at, radii, strict=True)
        ]

    def ask(self, contents: Contents, rng: random.Random) -> Dialogue:
        """Up to `turns` questions of different kinds with their answers."""
        match contents.scene:
            case "shape":
                kinds = [self._colour, self._colour, self._shape, self._present, self._background]
            case "count":
                kinds = [self._count, self._count, self._count, self._present]
            case "place":
                kinds = [self._where, self._present, self._colour]
                if len(contents.things) == 2:
                    kinds = [self._relation, self._where, self._colour, self._shape_of_colour]
            case "compare":
                kinds = [self._size, self._size, self._colour, self._shape_of_colour]
            case "word":
                kinds = [self._read, self._read, self._says, self._ink]
        rng.shuffle(kinds)
        kinds = list(dict.fromkeys([self._describe, *kinds] if rng.random() < 0.4 else kinds))
        dialogue = [kind(contents, rng) for kind in kinds[: self.turns]]
        rng.shuffle(dialogue)
        return dialogue

    def _colour(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        thing = rng.choice(contents.things)
        generic = len(contents.things) == 1 and rng.random() < 0.5
        return rng.choice(ASK_COLOUR).format(s="shape" if generic else thing.shape), thing.colour

    def _shape(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        return rng.choice(ASK_SHAPE), contents.things[0].shape

    def _shape_of_colour(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        thing = rng.choice(contents.things)
        return rng.choice(ASK_SHAPE_OF_COLOUR).format(c=thing.colour), thing.shape

    def _background(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        return rng.choice(ASK_BACKGROUND), contents.background

    def _present(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        """Half yes, half no; asked by shape, by colour and shape, or by colour."""
        present = rng.random() < 0.5
        form = rng.choice(("{s}", "{c} {s}", "{c} shape"))
        shown = {form.format(c=t.colour, s=t.shape) for t in contents.things}
        names = shown if present else {
            form.format(c=c, s=s) for c in self.colours for s in self.shapes
        } - shown  # fmt: skip
        if not names:  # every name that the settings allow is shown
            names, present = shown, True
        asked = rng.choice(sorted(names))
        return rng.choice(ASK_PRESENT).format(a=with_article(asked)), "yes" if present else "no"

    def _count(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        form = rng.choice(("shape", "shape", "colour", "all"))
        thing = rng.choice(contents.things)
        if form == "shape":
            plural, count = (
                _plural(thing.shape),
                sum(t.shape == thing.shape for t in contents.things),
            )
        elif form == "colour":
            plural, count = (
                f"{thing.colour} shapes",
                sum(t.colour == thing.colour for t in contents.things),
            )
        else:
            plural, count = "shapes", len(contents.things)
        return rng.choice(ASK_COUNT).format(S=plural), str(count)

    def _where(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        thing = rng.choice(contents.things)
        return rng.choice(ASK_WHERE).format(s=thing.shape), thing.place

    def _relation(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        one, other = rng.sample(contents.things, 2)
        relation = _relation_between(one, other)
        if rng.random() < 0.4:
            question = rng.choice(ASK_WHERE_TO).format(s=one.shape, t=other.shape)
            return question, f"{relation} the {other.shape}"
        true = rng.random() < 0.5
        asked = relation if true else OPPOSITE[relation]
        question = rng.choice(ASK_RELATION).format(s=one.shape, t=other.shape, relation=asked)
        return question, "yes" if true else "no"

    def _size(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        large, small = sorted(contents.things, key=lambda thing: -thing.r)
        size, thing = rng.choice((("larger", large), ("bigger", large), ("smaller", small)))
        return rng.choice(ASK_SIZE).format(size=size), thing.shape

    def _read(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        return rng.choice(ASK_WORD), contents.word

    def _says(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        true = rng.random() < 0.5
        others = [word for word in self.words if word.lower() != contents.word.lower()]
        asked = contents.word if true or not others else rng.choice(others)
        return rng.choice(ASK_SAYS).format(w=asked), "yes" if asked == contents.word else "no"

    def _ink(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        return rng.choice(ASK_TEXT_COLOUR), contents.ink

    def _describe(self, contents: Contents, rng: random.Random) -> tuple[str, str]:
        return rng.choice(DESCRIBING), caption(contents)


def caption(contents: Contents) -> str:
    """One sentence that says what a picture shows."""
    things = contents.things
    ground = f"on a {contents.background} background"
    match contents.scene:
        case "shape":
            return f"{_capital(with_article(things[0].name))} {ground}."
        case "count":
            tally: dict[str, int] = {}
            for thing in things:
                tally[thing.shape] = tally.get(thing.shape, 0) + 1
            parts = [f"{NUMBERS[n]} {s if n == 1 else _plural(s)}" for s, n in tally.items()]
            return f"{_capital(' and '.join(parts))} {ground}."
        case "place" if len(things) == 1:
            return f"{_capital(with_article(things[0].name))}, {things[0].place}."
        case "word":
            return f"The word {contents.word} in {contents.ink} {ground}."
        case _:
            one, other = things
            relation = _relation_between(one, other)
            return f"{_capital(with_article(one.name))} {relation} {with_article(other.name)}."


def _relation_between(one: Thing, other: Thing) -> str:
    """Where `one` is, seen from `other`, along the axis that parts them further."""
    dx, dy = one.x - other.x, one.y - other.y
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def _distance(one: str, other: str) -> float:
    return math.dist(COLOURS[one], COLOURS[other])


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
