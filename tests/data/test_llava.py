"""LLaVA's format: how a mark becomes a picture, what is left out, and what becomes of the rest."""

import json
from copy import copy

import pytest
from PIL import Image
from tiny import tiny_processor

from vlmamba.data.conversations import parse
from vlmamba.data.faults import BadSampleError
from vlmamba.data.grouping import Grouped
from vlmamba.data.llava import LlavaData, LlavaSamples
from vlmamba.data.packing import Packed
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
    assert parse(talk("Hi", "Hello", model="", source={"x": 1})).id == "a1"
    assert parse(talk("Hi", "Hello") | {"id": 17}).id == "17"
    bare = talk("Hi", "Hello")
    del bare["id"]
    assert parse(bare).id == ""


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
        ([], "not-a-sample"),
        ({"id": "x"}, "not-a-sample"),
        (talk("a", "b") | {"image": 5}, "not-a-sample"),
        (talk("<image>a", "b", image=[3]), "not-a-sample"),
        (talk("<image>a", "b", image=[""]), "not-a-sample"),
        ({"conversations": [{"from": "system", "value": "a"}]}, "not-a-sample"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "not-a-sample"),
        ({"conversations": [{"from": "human"}]}, "not-a-sample"),
        (talk(), "no-answer"),
        (talk("Only a question"), "no-answer"),
        (talk("A question", " \n"), "no-answer"),
        (talk("One", "Fine.", "Two", ""), "no-answer"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"},
                            {"from": "gpt", "value": "c"}]}, "roles"),
        (talk("no mark", "A cat.", image="a.jpg"), "image-marks"),
        (talk("<image>\na", "b", "<image>\nc", "d", image="a.jpg"), "image-marks"),
        (talk("a", "<image> b", image="a.jpg"), "image-marks"),
    ],
)  # fmt: skip
def test_a_bad_sample_has_a_reason(data, reason):
    with pytest.raises(BadSampleError) as caught:
        parse(data)
    assert caught.value.reason == reason


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
        talk("<image>\nonly", image="00001/red.png"),
        talk("<image>\nColour?", "Blue.", image="broken.png", id="b7") | {"id": "b7"},
    ]
    return tmp_path, records


def test_a_file_is_read_as_a_list_and_as_lines(folder, caplog):
    root, records = folder
    (root / "data.json").write_text(json.dumps(records))
    (root / "data.jsonl").write_text("\n".join(json.dumps(r) for r in records) + "\n\n")
    for name in ("data.json", "data.jsonl"):
        samples = LlavaSamples(root / name, root / "images", PROCESSOR, max_length=64)
        assert samples.numbers == [0, 1, 4]
        assert samples.has_picture == [True, False, True]
        assert dict(samples.dropped) == {"too-long": 1, "no-answer": 1}
        assert (
            "2 of 5 samples left out: an answer is missing or empty: 1; longer than 64 tokens: 1"
        ) in caplog.text
        caplog.clear()


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
    with pytest.raises(BadSampleError, match=r"sample b7 \(.*data.json:1\): .*broken.png"):
        samples.sample(2)


def test_a_large_file_is_tokenised_once_for_every_tokenizer_and_template(folder, monkeypatch):
    root, records = folder
    (root / "data.json").write_text(json.dumps(records))
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    monkeypatch.setattr("vlmamba.data.cache.WORTH_KEEPING", 1)

    def lengths(processor=PROCESSOR, max_length=64):
        return LlavaSamples(root / "data.json", root / "images", processor, max_length).lengths

    first = lengths()
    plain = copy(PROCESSOR)
    plain.template = LLAVA_PLAIN
    assert lengths(plain) != first
    monkeypatch.setattr("vlmamba.data.index.readings", lambda *_: pytest.fail("read again"))
    assert lengths() == first
    assert len(lengths(max_length=1000)) == len(first) + 1  # the one that was too long


def test_an_error_that_nobody_expects_names_the_sample(folder, monkeypatch):
    root, records = folder
    (root / "data.json").write_text(json.dumps(records))
    samples = LlavaSamples(root / "data.json", root / "images", PROCESSOR, max_length=64)

    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr("vlmamba.data.sources.open_picture", fail)
    with pytest.raises(RuntimeError, match=r"sample a1 \(.*data.json:1\): MemoryError: no room"):
        samples.sample(0)


def test_a_file_that_changed_since_it_was_looked_through_gives_bad_samples(folder):
    root, records = folder
    (root / "data.json").write_text(json.dumps(records))
    samples = LlavaSamples(root / "data.json", root / "images", PROCESSOR, max_length=64)
    (root / "data.json").write_text(json.dumps(records)[7:])
    with pytest.raises(BadSampleError, match=r"not valid JSON: .*data.json:1"):
        samples.sample(1)


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
    with pytest.raises(FileNotFoundError, match="no such data file"):
        LlavaSamples(tmp_path / "x.json", tmp_path, PROCESSOR, 64)
    (tmp_path / "x.json").write_text("[{]")
    with pytest.raises(FileNotFoundError, match="no such folder of pictures"):
        LlavaSamples(tmp_path / "x.json", tmp_path / "none", PROCESSOR, 64)
    with pytest.raises(ValueError, match=r"not valid JSON: .*x\.json:1"):
        LlavaSamples(tmp_path / "x.json", tmp_path, PROCESSOR, 64)
    (tmp_path / "x.jsonl").write_text('{}\n{"a": }\n')
    with pytest.raises(ValueError, match=r"not valid JSON: .*x\.jsonl:2"):
        LlavaSamples(tmp_path / "x.jsonl", tmp_path, PROCESSOR, 64)
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="no list of samples"):
        LlavaSamples(tmp_path / "x.json", tmp_path, PROCESSOR, 64)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match="no sample to learn from"):
        LlavaSamples(tmp_path / "x.json", tmp_path, PROCESSOR, 64)
