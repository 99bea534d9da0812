"""Dialogues: right answers in the form that the wording asks for."""

import random

import pytest

from vlmamba.data import dialogues
from vlmamba.data.words import WordPictures, find_fonts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cat", "a cat"),
        ("accordion", "an accordion"),
        ("pants", "pants"),
        ("dress", "a dress"),
        ("octopus", "an octopus"),
    ],
)
def test_articles(name, said):
    assert dialogues.with_article(name) == said


def test_existence_is_half_yes_and_true():
    rng = random.Random(0)
    answers = [dialogues.existence("cat", ["dog", "ship"], rng) for _ in range(400)]
    assert 150 < sum(answer == "yes" for _, answer in answers) < 250
    assert all(("a cat" in question) == (answer == "yes") for question, answer in answers)


def test_about_object_answers_in_the_asked_form():
    for seed in range(100):
        for question, answer in dialogues.about_object(
            "cat", ["dog"], "photo", random.Random(seed)
        ):
            if answer in ("yes", "no"):
                assert "a cat" in question or "a dog" in question
            else:
                assert answer in ("cat", "A photo of a cat.")
                assert (answer == "A photo of a cat.") == question.startswith(
                    tuple(dialogues.DESCRIBING)
                )


@pytest.mark.parametrize("fonts", [(), tuple(find_fonts()[:3])])
def test_words_are_drawn_the_same_every_time(fonts):
    lettering = WordPictures(("open", "shop"), fonts, 64)
    picture, told = lettering.draw(3)
    again, told_again = lettering.draw(3)
    assert picture.size == (64, 64)
    assert picture.tobytes() == again.tobytes()
    assert told == told_again
    assert len(picture.getcolors(64 * 64)) > 2
