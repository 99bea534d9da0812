"""A notation for many wordings of one thing, and sentences drawn from it.

(tell|show) me      one of the alternatives, each as likely as the others
(please |)tell me   an alternative may be empty
<object>            one of the alternatives of an entry of a glossary
{n}                 left as it is, for `str.format`
"""

import random
import re
from collections.abc import Iterator, Mapping
from functools import cached_property

# A choice is a list of sequences, of which one is said; a sequence holds words and further choices.
Choice = list[list["str | Choice"]]


class Phrases:
    """All sentences of the lines of a text, one pattern a line: lines are as likely as each other."""

    def __init__(self, text: str, glossary: Mapping[str, str] | None = None) -> None:
        self.text, self.glossary = text, glossary or {}

    @cached_property
    def _tree(self) -> Choice:
        return _parsed(self.text, self.glossary)

    def draw(self, rng: random.Random) -> str:
        return "".join(_drawn(self._tree, rng))

    def __iter__(self) -> Iterator[str]:
        """Every sentence, in the order in which it is written."""
        return _every(self._tree)


def _drawn(choice: Choice, rng: random.Random) -> Iterator[str]:
    # An index by a product is several times as fast as `rng.choice`, and training draws millions.
    for part in choice[int(rng.random() * len(choice))]:
        if isinstance(part, str):
            yield part
        else:
            yield from _drawn(part, rng)


def _every(choice: Choice) -> Iterator[str]:
    for sequence in choice:
        yield from _continued(sequence)


def _continued(sequence: list["str | Choice"]) -> Iterator[str]:
    if not sequence:
        yield ""
        return
    first, rest = sequence[0], sequence[1:]
    for start in (first,) if isinstance(first, str) else _every(first):
        for end in _continued(rest):
            yield start + end


def _parsed(text: str, glossary: Mapping[str, str]) -> Choice:
    """The choice that a pattern is; raises ValueError when its brackets do not match."""
    text = "|".join(line.strip() for line in text.strip().splitlines())
    open_choices: list[Choice] = [[[]]]
    for token in re.findall(r"<\w+>|[()|]|[^<>()|]+", text):
        if token == "(":
            open_choices.append([[]])
        elif token == ")":
            closed = open_choices.pop()
            if not open_choices:
                raise ValueError(f"a bracket is closed that was never opened: {text!r}")
            open_choices[-1][-1].append(closed)
        elif token == "|":
            open_choices[-1].append([])
        elif token[0] == "<":
            open_choices[-1][-1].append(_parsed(glossary[token[1:-1]], glossary))
        else:
            open_choices[-1][-1].append(token)
    if len(open_choices) != 1:
        raise ValueError(f"a bracket is never closed: {text!r}")
    return open_choices[0]
