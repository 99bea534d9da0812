"""The embedded model: small enough to ship, and it sees."""

from pathlib import Path

import pytest
import skimage

from vlmamba import load
from vlmamba.vlm import embedded_model

PHOTOGRAPHS = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="module")
def vlm():
    return load()


def test_it_is_at_most_24_megabytes():
    assert sum(path.stat().st_size for path in embedded_model().iterdir()) <= 24_000_000


@pytest.mark.parametrize(
    ("file", "question", "answer"),
    [
        ("motorcycle_left.png", "What is this?", "motorbike"),
        ("motorcycle_left.png", "What is the main object in the image?", "motorbike"),
        ("motorcycle_left.png", "Is there a motorbike?", "yes"),
        ("motorcycle_left.png", "Is this a dog?", "no"),
        ("motorcycle_left.png", "What kind of thing is it?", "vehicle"),
        ("motorcycle_left.png", "Describe the picture.", "A picture of a motorbike."),
        (
            "motorcycle_left.png",
            "Which letter fits the picture?\nA. ship\nB. motorbike\nC. pizza",
            "B",
        ),
        ("chelsea.png", "What is this?", "wild cat"),
        ("chelsea.png", "Is it an animal?", "yes"),
        ("chelsea.png", "Is there a motorbike?", "no"),
        ("chelsea.png", "Is there a cat?", "yes"),
        ("chelsea.png", "What kind of thing is it?", "animal"),
        ("chelsea.png", "Who owns this?", "I cannot tell from the picture."),
        ("coffee.png", "What is this?", "espresso"),
        ("coffee.png", "Is this an espresso?", "yes"),
    ],
)
def test_it_answers_about_real_photographs(vlm, file, question, answer):
    assert vlm.ask(PHOTOGRAPHS / file, question) == answer


def test_its_answer_comes_from_the_picture(vlm):
    answers = vlm.ask_many(
        [
            (PHOTOGRAPHS / file, "What is this?")
            for file in ("motorcycle_left.png", "coffee.png", "coins.png")
        ]
    )
    assert len(set(answers)) == 3
