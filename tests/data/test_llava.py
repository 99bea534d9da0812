"""LLaVA's format: what is read, how a mark becomes a picture, and what is left out."""

import json
from copy import copy

import pytest
from PIL import Image
from tiny import tiny_processor

from vlmamba.data.grouping import Grouped
from vlmamba.data.llava import LlavaData, LlavaSamples, parse, read_records
from vlmamba.data.packing import Packed
from vlmamba.data.samples import BadSampleError
from vlmamba.model import IGNORE_INDEX
from vlmamba.template import LLAVA_PLAIN, Turn

PROCESSOR = tiny_processor()


def talk(*values, image=None, **extra):
    turns = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return {"id": "a1", "conversations": turns, **({"image": image} if image else {}), **extra}


@pytest.mark.parametrize(
    "question",
    [
        "<image>\nWhat is it?",
        "What is it?\n<image>",
        "What is <image> it?",
        "<image>What is it?<image>",
    ],
)
def test_a_mark_anywhere_puts_the_picture_before_the_words(question):
    record = parse(talk(question, "A cat.", "And now?", "A dog.", image="a/b.jpg"))
    words = question.replace("<image>", "").strip()
    assert record.pictures == ("a/b.jpg",)
    assert record.turns == (
        Turn("user", words, 1), Turn("assistant", "A cat."),
        Turn("user", "And now?"), Turn("assistant", "A dog."),
    )  # fmt: skip


def test_without_a_picture_the_mark_is_text():
    record = parse(talk("What does <image> mean in HTML?", "Nothing."))
    assert record.turns[0] == Turn("user", "What does <image> mean in HTML?")
    ids, _ = PROCESSOR.training_ids(record.turns)
    assert PROCESSOR.image_token_id not in ids


def test_unknown_keys_are_ignored_and_ids_may_be_missing_or_numbers():
    assert parse(talk("Hi", "Hello", model="", source={"x": 1})).name == "a1"
    assert parse(talk("Hi", "Hello") | {"id": 17}).name == "17"
    bare = talk("Hi", "Hello")
    del bare["id"]
    assert parse(bare).name == "unnamed"


def test_a_first_turn_that_is_not_the_humans_and_a_last_question_are_dropped():
    data = {"id": "x", "conversations": [
        {"from": "gpt", "value": "Welcome."}, {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Bye"},
    ]}  # fmt: skip
    assert parse(data).turns == (Turn("user", "Hi"), Turn("assistant", "Hello"))


def test_several_pictures_need_as_many_marks():
    record = parse(talk("<image><image>Which is red?", "The first.", image=["a.png", "b.png"]))
    assert record.turns[0] == Turn("user", "Which is red?", 2)
    with pytest.raises(BadSampleError, match="number of <image> marks"):
        parse(talk("<image>Which?", "The first.", image=["a.png", "b.png"]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([], "no list of conversations"),
        ({"id": "x"}, "no list of conversations"),
        (talk(), "no answer to learn"),
        (talk("Only a question"), "no answer to learn"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"},
                            {"from": "gpt", "value": "c"}]}, "roles do not alternate"),
        ({"conversations": [{"from": "system", "value": "a"}]}, "neither from human nor from gpt"),
        ({"conversations": [{"from": "human"}]}, "without a value"),
        (talk("no mark", "A cat.", image="a.jpg"), "number of <image> marks"),
        (talk("<image>\na", "b", "<image>\nc", "d", image="a.jpg"), "number of <image> marks"),
        (talk("a", "<image> b", image="a.jpg"), "an <image> mark in an answer"),
        (talk("<image>a", "b", image="../secret.png"), "leaves the folder"),
        (talk("<image>a", "b", image="/etc/x.png"), "leaves the folder"),
        (talk("<image>a", "b", image="C:\\x.png"), "leaves the folder"),
        (talk("<image>a", "b", image=[3]), "leaves the folder"),
    ],
)  # fmt: skip
def test_a_bad_sample_has_a_reason(data, reason):
    with pytest.raises(BadSampleError, match=reason):
        parse(data)


@pytest.fixture
def folder(tmp_path):
    """Two good samples, one without picture, and one of each fault."""
    images = tmp_path / "images"
    (images / "00001").mkdir(parents=True)
    Image.new("RGB", (20, 10), "red").save(images / "00001" / "red.png")
    (images / "broken.png").write_bytes(b"\x89PNG not really")
    records = [
        talk("<image>\nColour?", "Red.", image="00001/red.png"),
        talk("Hi", "Hello.", "Bye", "Good bye."),
        talk("<image>\nColour?", "red " * 200, image="00001/red.png"),
        talk("only", image="00001/red.png"),
        talk("<image>\nColour?", "Blue.", image="broken.png", id="b7") | {"id": "b7"},
    ]
    return tmp_path, records


def test_a_file_is_read_as_a_list_and_as_lines(folder, caplog):
    root, records = folder
    (root / "data.json").write_text(json.dumps(records))
    (root / "data.jsonl").write_text("\n".join(json.dumps(r) for r in records) + "\n\n")
    assert (
        list(read_records(root / "data.json")) == list(read_records(root / "data.jsonl")) == records
    )
    samples = LlavaSamples(root / "data.json", root / "images", PROCESSOR, max_length=64)
    assert len(samples.records) == 3
    assert samples.has_picture == [True, False, True]
    assert dict(samples.dropped) == {"longer than 64 tokens": 1, "no answer to learn": 1}
    assert "2 of 5 samples left out: longer than 64 tokens: 1; no answer to learn: 1" in caplog.text


def test_a_sample_has_its_pictures_and_learns_its_answers(folder):
    root, records = folder
    (root / "data.json").write_text(json.dumps(records))
    samples = LlavaSamples(root / "data.json", root / "images", PROCESSOR, max_length=64)
    sample = samples.sample(0)
    assert len(sample.input_ids) == samples.lengths[0]
    assert sample.pictures[0].size == (20, 10)
    learnt = [label for label in sample.labels if label != IGNORE_INDEX]
    assert learnt[-1] == PROCESSOR.eos_token_id
    assert PROCESSOR.tokenizer.decode(learnt) == " Red."
    both = [label for label in samples.sample(1).labels if label != IGNORE_INDEX]
    assert PROCESSOR.tokenizer.decode(both) == " Hello. Good bye."
    with pytest.raises(BadSampleError, match=r"sample b7: .*broken.png"):
        samples.sample(2)


def test_llavas_first_stage_learns_the_caption_alone(folder):
    root, records = folder
    (root / "data.json").write_text(json.dumps(records[:1]))
    plain = copy(PROCESSOR)
    plain.template = LLAVA_PLAIN
    sample = LlavaSamples(root / "data.json", root / "images", plain, 64).sample(0)
    patches = plain.num_patches
    assert list(sample.input_ids[:patches]) == [plain.image_token_id] * patches
    assert plain.tokenizer.decode(sample.input_ids[patches:]) == "Red.\n"
    assert list(sample.labels[patches:]) == list(sample.input_ids[patches:])


@pytest.mark.parametrize(("packed", "kind"), [(True, Packed), (False, Grouped)])
def test_batches_of_either_kind(folder, packed, kind):
    root, records = folder
    (root / "data.json").write_text(json.dumps(records))
    data = LlavaData(str(root / "data.json"), str(root / "images"), packed, max_bad=0.5)
    batches = data.batches(PROCESSOR, batch_size=8, max_length=64, seed=0)
    assert isinstance(batches, kind)
    assert len(batches) >= 1
    batch = batches.batch(0)
    assert "b7" not in batch.sample_ids
    assert batch.pixel_values is not None


def test_files_that_are_not_there_or_not_json_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder of pictures"):
        LlavaSamples(tmp_path / "x.json", tmp_path / "none", PROCESSOR, 64)
    with pytest.raises(FileNotFoundError, match="no such data file"):
        LlavaSamples(tmp_path / "x.json", tmp_path, PROCESSOR, 64)
    (tmp_path / "x.json").write_text("[{]")
    with pytest.raises(ValueError, match=r"x\.json is not valid JSON"):
        LlavaSamples(tmp_path / "x.json", tmp_path, PROCESSOR, 64)
    (tmp_path / "x.jsonl").write_text('{}\n{"a": }\n')
    with pytest.raises(ValueError, match=r"x\.jsonl:2 is not valid JSON"):
        LlavaSamples(tmp_path / "x.jsonl", tmp_path, PROCESSOR, 64)
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="no list of samples"):
        LlavaSamples(tmp_path / "x.json", tmp_path, PROCESSOR, 64)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match="no sample to learn from"):
        LlavaSamples(tmp_path / "x.json", tmp_path, PROCESSOR, 64)
