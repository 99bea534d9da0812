"""How a question is put: in many ways, with what it asks about left as it is."""

import random

from vlmamba.data.manners import put

QUESTION = "What is next to {n} in the picture?"


def test_a_question_is_put_in_many_ways_and_often_plainly():
    rng = random.Random(0)
    ways = [put(QUESTION, rng) for _ in range(1000)]
    assert 400 < ways.count(QUESTION) < 700
    assert len(set(ways)) > 200
    assert all("{n}" in way for way in ways)
    assert any(way.endswith("picture") for way in ways)
    assert QUESTION.lower() in ways


def test_short_questions_survive():
    rng = random.Random(0)
    for question in ("It?", "{a}?", "I", "This."):
        for _ in range(300):
            assert put(question, rng).strip()


def test_a_sentence_goes_on_in_small_letters_behind_a_comma():
    rng = random.Random(0)
    ways = [put("What is this?", rng) for _ in range(2000)]
    assert not any(", What" in way for way in ways)
    assert any(way.startswith("So, what is this?") for way in ways)
