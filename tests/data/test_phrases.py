"""The notation of wordings: every alternative, nested and named, and brackets that do not match."""

import random

import pytest

from vlmamba.data import unanswerable, wordings
from vlmamba.data.phrases import Phrases


def test_all_sentences_are_listed_and_drawn():
    phrases = Phrases(
        """
        What is (this|<thing>)?
        Name (|the <thing>|{n}).
        """,
        {"thing": "(old |)cup|hat"},
    )
    listed = list(phrases)
    assert listed == [
        "What is this?", "What is old cup?", "What is cup?", "What is hat?",
        "Name .", "Name the old cup.", "Name the cup.", "Name the hat.", "Name {n}.",
    ]  # fmt: skip
    rng = random.Random(0)
    assert {phrases.draw(rng) for _ in range(500)} == set(listed)


def test_lines_are_as_likely_as_each_other():
    phrases = Phrases("one\n(a|b|c|d)(a|b|c|d)")
    rng = random.Random(0)
    assert 450 < sum(phrases.draw(rng) == "one" for _ in range(1000)) < 550


@pytest.mark.parametrize(
    ("text", "said"), [("a (b|c", "never closed"), ("a b)", "never opened"), ("<d>", "'d'")]
)
def test_a_pattern_with_a_slip_is_refused(text, said):
    with pytest.raises((ValueError, KeyError), match=said):
        Phrases(text).draw(random.Random(0))


ALL = [
    pytest.param(phrases, id=name)
    for module in (wordings, unanswerable)
    for name, phrases in vars(module).items()
    if isinstance(phrases, Phrases)
]


@pytest.mark.parametrize("phrases", ALL)
def test_wordings_are_sentences(phrases):
    """No stray sign of the notation, no doubled blank, and the same field to fill in all of them."""
    rng = random.Random(0)
    drawn = {phrases.draw(rng) for _ in range(2000)}
    for sentence in drawn:
        assert not set("<>()|") & set(sentence), sentence
        assert sentence == " ".join(sentence.split()), sentence
    fields = {tuple(sorted({part[:1] for part in s.split("{")[1:]})) for s in drawn}
    assert len(fields) == 1, fields
