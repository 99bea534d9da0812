"""Dialogues: right answers in the form that the wording asks for."""

import random
import re

import pytest

from vlmamba.data import dialogues, kinds, wordings
from vlmamba.data.words import LONGEST, WordMasks, find_fonts, spelt


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


def test_about_object_answers_in_the_asked_form(monkeypatch):
    monkeypatch.setattr(dialogues, "put", lambda question, rng: question)
    names = ["tabby", "lion", "dog", "ship", "lemon"]
    forms = set()
    for seed in range(300):
        for question, answer in dialogues.about_object(
            "tabby", names, "photo", random.Random(seed)
        ):
            if answer in ("yes", "no") and not any(w in question for w in kinds.SAID):
                assert ("a tabby" in question) == (answer == "yes")
                forms.add(answer)
            elif answer in tuple("ABCD"):
                mark = re.search(rf"{answer}[.):] (\w+)", question)
                assert mark is not None
                assert mark[1] == "tabby"
                forms.add("letter")
            elif answer.startswith("A photo"):
                assert answer == "A photo of a tabby."
                forms.add("sentence")
            elif answer.startswith("I do not see"):
                assert "tabby" not in question
                forms.add("absent")
    assert forms == {"yes", "no", "letter", "sentence", "absent"}


def test_a_question_of_one_wording_has_one_form_of_answer():
    """Whatever the thing: no wording asks for its name in one dialogue and is unanswerable in another."""
    rng = random.Random(0)
    answers: dict[str, set[str]] = {}
    for _ in range(20_000):
        for question, answer in dialogues.about_object(
            "tabby", ["tabby", "lion", "ship"], "photo", rng
        ):
            if len(question.split()) > 2:  # "what it" may be what haste left of more
                answers.setdefault(question, set()).add(answer)
    mixed = {
        question: found
        for question, found in answers.items()
        if len(found) > 1 and not found <= set("ABCD")
    }
    assert not mixed


def test_what_cannot_be_told_is_asked_of_what_is_there_too():
    """Else "how old is the ..." would say by itself that there is none."""
    rng = random.Random(0)
    turns = [dialogues.unanswerable("tabby", ["ship"], rng) for _ in range(3000)]
    of_tabby = {answer for question, answer in turns if "tabby" in question}
    of_ship = {answer for question, answer in turns if "ship" in question}
    assert of_tabby == {wordings.UNKNOWN}
    assert of_ship == {"I do not see a ship in the picture."}
    answers = [answer for _, answer in turns]
    assert 0.5 < answers.count(wordings.UNKNOWN) / 3000 < 0.75
    assert 0.04 < answers.count(wordings.NONSENSE) / 3000 < 0.12


def test_most_naming_questions_are_worded_anew():
    rng = random.Random(0)
    asked = [dialogues.naming("tabby", rng) for _ in range(2000)]
    assert {answer for _, answer in asked} == {"tabby"}
    assert len({question for question, _ in asked}) > 1200


def test_kinds_go_from_names_to_what_they_are():
    assert kinds.kinds("tabby") == ["cat", "animal"]
    assert kinds.kinds("teddy") == []
    assert set(kinds.alike("cat", ["cat", "dog", "horse", "ship"])) == {"dog", "horse"}
    for seed in range(60):
        question, answer = dialogues.kind_of("tabby", random.Random(seed))
        if answer in ("yes", "no"):
            assert (answer == "yes") == ("a cat" in question or "an animal" in question)
        else:
            assert answer == "animal"


@pytest.mark.parametrize("fonts", [(), tuple(find_fonts()[:3])])
def test_words_are_drawn_the_same_every_time(fonts):
    lettering = WordMasks(("open", "shop"), ("cafe",), fonts, 48, 144)
    mask, aspect, edges, word, told = lettering.draw(3)
    again = lettering.draw(3)
    assert mask.shape == (48, 144)
    assert (mask == again[0]).all()
    assert (aspect, edges, word, told) == again[1:]
    assert edges == sorted(edges)
    assert len(edges) == LONGEST + 1
    assert 0.2 < aspect < 12
    assert mask[:, :2].max() > 20, "a word fills its mask from edge to edge"
    assert mask[:2].max() > 20


def test_words_are_spelt_case_aside():
    assert spelt("Ab9!") == [1, 2, 36, 37] + [0] * (LONGEST - 4)
    assert len(spelt("incomprehensibilities")) == LONGEST


def test_what_a_picture_does_not_say_is_never_what_it_says():
    lettering = WordMasks(("open", "shop"), ("cafe",), (), 48, 144)
    for seed in range(50):
        assert "shop" not in [w.lower() for w in lettering.similar("Shop", random.Random(seed))]
