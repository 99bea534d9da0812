"""What bench/mini_quality.py asks: nothing that training asks in the same words, and half of its answers yes."""

import random
import re

import numpy as np
import pytest
from pack_files import write_pack
from PIL import Image

from vlmamba.data import dialogues, wordings
from vlmamba.data.packs import open_pack
from vlmamba.eval import mini_questions as asked


@pytest.fixture
def pack(tmp_path):
    names = ["tabby", "lion", "ship", "lemon", "pizza"]
    pictures = [Image.new("RGB", (4, 4))] * 200
    write_pack(tmp_path / "p.npz", pictures, y=np.arange(200) % 5, meta={"classes": names})
    return open_pack(tmp_path / "p.npz")


def shared(unseen: str, learnt: str) -> float:
    """How many of the words of one sentence stand in the other, in their order, as a part of all."""
    words, others = (re.findall(r"[a-z']+", text.lower()) for text in (unseen, learnt))
    row = [0] * (len(others) + 1)
    for word in words:
        before = 0
        for k, other in enumerate(others):
            before, row[k + 1] = (
                row[k + 1],
                before + 1 if word == other else max(row[k], row[k + 1]),
            )
    return row[-1] / len(words)


def test_shared_words_are_counted_in_order():
    assert shared("What is this?", "So, what is this thing?") == 1
    assert shared("What is this?", "this is what") == pytest.approx(1 / 3)


@pytest.mark.parametrize("about", ["name", "nothing", "photo", "word", "place", "colour"])
def test_nothing_near_an_unseen_wording_is_learnt(about, monkeypatch):
    """Of every unseen wording more than a quarter is missing, or in another order, in all that training asks, whatever
    is said before and after it."""
    monkeypatch.setattr(dialogues, "put", lambda question, rng: question)
    monkeypatch.setattr(dialogues, "SHORTLY", ("",))
    rng, names = random.Random(0), ["tabby", "lion", "ship"]
    tell = {
        "name": lambda: [dialogues.naming("tabby", rng)],
        "nothing": lambda: [dialogues.unanswerable("tabby", names, rng)],
        "photo": lambda: dialogues.about_object("tabby", names, "photo", rng),
        "word": lambda: dialogues.about_word("shop", ["exit"], rng),
        "place": lambda: dialogues.placed("tabby", "left", rng),
        "colour": lambda: dialogues.coloured("tabby", "red", "photo", rng),
    }[about]
    asked_of = {question for _ in range(6000) for question, _ in tell()}
    for unseen in (*asked.UNSEEN_NAMING, *asked.UNSEEN_UNANSWERABLE):
        words = set(re.findall(r"[a-z']+", unseen.lower()))
        for question in asked_of:
            if len(words.intersection(re.findall(r"[a-z']+", question.lower()))) >= len(words) / 2:
                assert shared(unseen, question) < 0.75, (unseen, question)


def test_presence_is_half_yes_and_true(pack):
    names = pack.classes
    questions = asked.presence(pack, same_kind=False)
    assert len(questions) == 200
    for k, question in enumerate(questions):
        assert (names[k % 5] in question.text) == (question.answer == "yes")
    assert 80 < sum(q.answer == "yes" for q in questions) < 120


def test_absentees_of_the_same_kind(pack):
    questions = asked.presence(pack, same_kind=True)
    absent = {q.text for q in questions if q.answer == "no"}
    assert absent == {
        "Is there a pizza in the picture?", "Is there a lemon in the picture?",
        "Is there a tabby in the picture?", "Is there a lion in the picture?",
    }  # fmt: skip


def test_answers_count_whatever_their_case_and_article():
    question = asked.Question(Image.new("RGB", (1, 1)), "What is this?", "Egyptian cat")
    assert question.counts("an egyptian cat.")
    assert not question.counts("cat")
    open_question = asked.Question(Image.new("RGB", (1, 1)), "Who owns this?", "")
    assert open_question.counts(wordings.UNKNOWN)
    assert open_question.counts("I do not see a dog in the picture.")
    assert not open_question.counts("dog")
    assert not open_question.counts("")
