"""The VQA normalisers on worked examples, and the soft accuracy against its definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmamba.eval.vqa_accuracy import (
    ARTICLES,
    CONTRACTIONS,
    NUMBER_WORDS,
    PUNCTUATION,
    normalize,
    normalize_m4c,
    normalize_vlmevalkit,
    soft_accuracy,
)


def test_tables_have_their_published_sizes() -> None:
    assert (len(CONTRACTIONS), len(NUMBER_WORDS), len(ARTICLES)) == (120, 12, 3)
    assert len(PUNCTUATION) == 21


@pytest.mark.parametrize(
    ("text", "official", "m4c"),
    [
        ("", "", ""),
        ("   \n\t", "", ""),
        ("The two dogs", "2 dogs", "2 dogs"),
        ("a,b", "b", "ab"),
        ("a, b", "b", "b"),
        ("it's", "it's", "it 's"),
        ("red/blue", "red blue", "red blue"),
        ("red/ blue", "red blue", "red blue"),
        ("1,000 a/b", "1000 ab", "1000 b"),
        ("3.", "3", "3"),
        (".5 m.", ".5 m", ".5 m"),
        ("zero none ten eleven", "0 0 10 eleven", "0 0 10 eleven"),
        ("dont Im IVE", "don't im ive", "don't im ive"),
        ("somebody'd", "somebodyd", "somebodyd"),
        ("CAFÉ — ñ", "café — ñ", "café — ñ"),
        ("½ “two”", "½ “two”", "½ “two”"),
    ],
)
def test_normalisers_on_worked_examples(text: str, official: str, m4c: str) -> None:
    assert normalize(text) == official
    assert normalize_m4c(text) == m4c


def test_only_32_full_stops_go() -> None:
    assert normalize("." * 40 + "x") == "." * 8 + "x"


def test_vlmevalkit_keeps_a_stop_after_a_digit() -> None:
    assert normalize_vlmevalkit("3. Then no.") == "3. then no"


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=12))
def test_soft_accuracy_is_the_leave_one_out_mean(answers: list[str]) -> None:
    by_definition = 0.0
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        by_definition += min(1.0, others.count("a") / 3)
    assert soft_accuracy("a", answers) == pytest.approx(by_definition / len(answers))


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_soft_accuracy_of_ten(matches: int, accuracy: float) -> None:
    assert soft_accuracy("x", ["x"] * matches + ["y"] * (10 - matches)) == pytest.approx(accuracy)
