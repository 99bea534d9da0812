"""What bench/mini_quality.py asks: nothing that training asks in the same words, and half of its answers yes."""

import numpy as np
import pytest
from pack_files import write_pack
from PIL import Image

from vlmamba.data import wordings
from vlmamba.data.packs import open_pack
from vlmamba.eval import mini_questions as asked


@pytest.fixture
def pack(tmp_path):
    names = ["tabby", "lion", "ship", "lemon", "pizza"]
    pictures = [Image.new("RGB", (4, 4))] * 200
    write_pack(tmp_path / "p.npz", pictures, y=np.arange(200) % 5, meta={"classes": names})
    return open_pack(tmp_path / "p.npz")


def test_unseen_wordings_are_unseen():
    assert not set(asked.UNSEEN_NAMING) & set(wordings.NAMING)
    assert not set(asked.UNSEEN_UNANSWERABLE) & set(wordings.UNANSWERABLE)


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
