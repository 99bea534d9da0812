"""Pixel values, ids and labels: equal to LLaVA's where LLaVA is right, and the same wherever a prompt is cut."""

import json
import pickle
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_cases import llava_turns
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import EOS, IMAGE, PAD, tiny_config, tiny_processor, tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, models

from vlmamba.config import VisionConfig
from vlmamba.processing import (
    IGNORE_INDEX,
    MAX_QUESTION_CHARS,
    ImageSettings,
    Processor,
    QuestionError,
    add_image_token,
    gpt_neox_tokens,
    modality_length,
    square_padding,
)
from vlmamba.template import LLAVA_PLAIN, LLAVA_V1, Template, Turn

GOLDEN = json.loads((Path(__file__).parent / "golden" / "llava_train.json").read_text())["cases"]
TEMPLATES = [Template(), LLAVA_V1, LLAVA_PLAIN]
PROCESSORS = [tiny_processor(template) for template in TEMPLATES]


def cases(kind: str) -> list:
    found = [case for case in GOLDEN if case["kind"] == kind]
    assert found
    return [pytest.param(case["input"], case["expected"], id=case["id"]) for case in found]


def photo(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def supervised(processor: Processor, turns: list[Turn]) -> list[str]:
    """The text of each supervised stretch, from ids and labels alone; eos as in LLaVA."""
    ids, labels = processor.training_ids(turns)
    assert all(label in (IGNORE_INDEX, id_) for id_, label in zip(ids, labels, strict=True))
    stretches = groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != IGNORE_INDEX)
    texts = [
        processor.tokenizer.decode([id_ for id_, _ in stretch], skip_special_tokens=False)
        for learnt, stretch in stretches
        if learnt
    ]
    return [text.replace("<|endoftext|>", "</s>") for text in texts]


# LLaVA


@pytest.mark.parametrize(("case", "expected"), cases("v1"))
def test_llava_v1_ids_and_labels(case, expected):
    processor = tiny_processor(LLAVA_V1)
    turns = llava_turns(case["conversations"], case["has_image"])
    assert LLAVA_V1.render(turns, "</s>") == expected["prompt"]
    ids, _ = processor.training_ids(turns)
    assert ids.count(IMAGE) == expected["num_image_tokens"] * processor.num_patches
    assert supervised(processor, turns) == expected["supervised_segments"]


@pytest.mark.parametrize(("case", "expected"), cases("plain"))
def test_llava_plain_ids_and_labels(case, expected):
    processor = tiny_processor(LLAVA_PLAIN)
    turns = llava_turns(case["conversations"], has_image=True)
    assert LLAVA_PLAIN.render(turns, "</s>") == expected["text"]
    ids, _ = processor.training_ids(turns)
    assert ids.count(IMAGE) == expected["num_image_tokens"] * processor.num_patches
    assert (ids[-1] == EOS) == expected["ends_with_eos"]
    assert supervised(processor, turns) == expected["supervised_segments"]


@pytest.mark.parametrize(("case", "expected"), cases("pad"))
def test_llava_padding(case, expected):
    side, offset, colour = square_padding(case["width"], case["height"], case["image_mean"])
    assert [side, side] == expected["size"]
    assert list(offset) == expected["offset"]
    assert list(colour) == expected["background"]


@pytest.mark.parametrize(("case", "expected"), cases("modality_length"))
def test_llava_modality_length(case, expected):
    texts = [turn["value"] for turn in case["conversations"]]
    assert modality_length(texts, case["has_image"]) == expected


# Pictures


def llava_reference(picture: Image.Image, image: ImageSettings) -> np.ndarray:
    """LLaVA's expand2square, then the steps of transformers' image processors, in float64."""
    background = tuple(int(m * 255) for m in image.mean)
    width, height = picture.size
    square = picture
    if width > height:
        square = Image.new("RGB", (width, width), background)
        square.paste(picture, (0, (width - height) // 2))
    elif height > width:
        square = Image.new("RGB", (height, height), background)
        square.paste(picture, ((height - width) // 2, 0))
    resized = square.resize((image.image_size, image.image_size), Image.Resampling.BICUBIC)
    values = (np.asarray(resized, np.float64) / 255 - image.mean) / image.std
    return values.transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(8, 29), (30, 7), (16, 16), (64, 48), (1, 1), (1, 500), (500, 1)])
@pytest.mark.parametrize("layout", ["clip", "siglip"])
def test_pixel_values_equal_llavas(size, layout):
    vision = VisionConfig(layout, 16, 32, 2, 2, 24, 8, 1e-6, "quick_gelu")
    image = ImageSettings.for_tower(vision)
    processor = Processor(tiny_tokenizer(), image, 9, image_token_id=IMAGE)
    values = processor.pixel_values([photo(*size)])
    assert (values.shape, values.dtype) == ((1, 3, 24, 24), torch.float32)
    np.testing.assert_allclose(values[0], llava_reference(photo(*size), image), atol=1e-6)


@pytest.mark.parametrize("layout", ["clip", "siglip"])
def test_pixel_values_equal_transformers(layout):
    """On a square picture, where LLaVA pads nothing."""
    transformers = pytest.importorskip("transformers")
    name = {"clip": "CLIPImageProcessorPil", "siglip": "SiglipImageProcessorPil"}[layout]
    image = ImageSettings.for_tower(VisionConfig(layout, 16, 32, 2, 2, 24, 8, 1e-6, "gelu"))
    options = {
        "clip": {"size": {"shortest_edge": 24}, "crop_size": 24},
        "siglip": {"size": {"height": 24, "width": 24}},
    }
    theirs = getattr(transformers, name)(**options[layout])(photo(60, 60), return_tensors="pt")
    ours = Processor(tiny_tokenizer(), image, 9, image_token_id=IMAGE).pixel_values([photo(60, 60)])
    torch.testing.assert_close(ours, theirs["pixel_values"], atol=1e-6, rtol=0)


def test_squash_scales_the_sides_apart():
    image = ImageSettings(8, aspect="squash")
    processor = Processor(tiny_tokenizer(), image, 1, image_token_id=IMAGE)
    picture = Image.new("RGB", (40, 10), (255, 255, 255))
    assert torch.equal(processor.pixel_values([picture]), torch.ones(1, 3, 8, 8))


def test_photographs_are_squashed_and_longer_pictures_padded():
    image = ImageSettings(8, aspect="photo")
    processor = Processor(tiny_tokenizer(), image, 1, image_token_id=IMAGE)
    white = torch.ones(1, 3, 8, 8)
    for size in ((24, 16), (16, 24), (20, 20)):
        assert torch.equal(processor.pixel_values([Image.new("RGB", size, (255, 255, 255))]), white)
    padded = processor.pixel_values([Image.new("RGB", (64, 16), (255, 255, 255))])
    assert padded[:, :, 3:5].min() > 0.9
    assert padded[:, :, (0, 7)].abs().max() < 0.01


def test_a_long_picture_makes_no_canvas_of_gigabytes(monkeypatch):
    new = Image.new

    def small(mode, size, *rest):
        assert size == (4096, 4096)
        return new(mode, size, *rest)

    long = new("RGB", (1, 200_000), (255, 0, 0))
    monkeypatch.setattr(Image, "new", small)
    assert tiny_processor().pixel_values([long]).shape == (1, 3, 16, 16)
    assert long.size == (1, 200_000)


def test_batch_equals_single():
    pictures = [photo(8, 29), photo(16, 16), photo(50, 20), photo(1, 1)]
    processor = tiny_processor()
    batch = processor.pixel_values(pictures)
    singles = [processor.pixel_values([picture]) for picture in pictures]
    assert torch.equal(batch, torch.cat(singles))


def test_no_pictures():
    assert tiny_processor().pixel_values([]).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"aspect": "crop"}, "aspect 'crop' is unknown: use one of pad, squash, photo"),
        ({"resample": "box"}, "resample 'box' is unknown"),
        ({"image_size": 0}, "positive image_size"),
        ({"mean": (0.5,)}, "three means"),
        ({"std": (0.5, 0.5, 0.0)}, "positive deviations"),
    ],
)
def test_image_settings_are_checked(fields, reason):
    with pytest.raises(ValueError, match=reason):
        ImageSettings(**({"image_size": 16} | fields))


# Ids


def test_prompt_ids_read_as_the_template():
    processor = tiny_processor()
    ids = processor.prompt_ids([Turn("user", "What is this?", 2)])
    assert ids.count(IMAGE) == 2 * processor.num_patches
    assert processor.tokenizer.decode(ids, skip_special_tokens=False) == (
        "User: " + "<image>" * 4 + "\n" + "<image>" * 4 + "\nWhat is this?\nAssistant:"
    )


def test_a_turn_without_pictures_is_tokenised_whole():
    processor = tiny_processor()
    whole = processor.tokenizer.encode("User: What is this?\nAssistant:").ids
    assert processor.prompt_ids([Turn("user", "What is this?")]) == whole


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)


@given(question=words, num_pictures=st.integers(1, 3), which=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_reading_first_and_asking_later_gives_the_same_ids(question, num_pictures, which):
    processor = PROCESSORS[which]
    whole = processor.prompt_ids([Turn("user", question, num_pictures)])
    assert whole == processor.prefix_ids(num_pictures) + processor.continue_ids(question)


@given(
    first=words, answer=words, second=words, pictures=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    which=st.integers(0, 2),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_turn_after_turn_gives_the_ids_of_the_whole(first, answer, second, pictures, which):
    processor = PROCESSORS[which]
    asked = Turn("user", first, pictures[0])
    answered = [asked, Turn("assistant", answer)]
    ids, labels = processor.training_ids(answered)
    prompt = processor.prompt_ids([asked])
    assert ids[: len(prompt)] == prompt
    assert labels == [IGNORE_INDEX] * len(prompt) + ids[len(prompt) :]
    assert ids[-len(processor.end_ids()) :] == processor.end_ids()
    again = processor.prompt_ids([*answered, Turn("user", second, pictures[1])])
    assert again == ids + processor.next_turn_ids(second, pictures[1])


@given(texts=st.lists(words, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
@settings(max_examples=40, deadline=None)
def test_learnt_text_is_every_answer_and_its_end(texts):
    turns = [Turn("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    expected = [f" {turn.text}</s>" for turn in turns[1::2]]
    assert supervised(PROCESSORS[0], turns) == expected


@pytest.mark.parametrize("token", ["<image>", "<|endoftext|>", "<|padding|>"])
def test_special_tokens_in_a_text_are_plain_text(token):
    processor = tiny_processor()
    for copy in (processor, pickle.loads(pickle.dumps(processor))):
        question = f"is {token} a token?"
        ids = copy.prompt_ids([Turn("user", question)])
        assert not {EOS, PAD, IMAGE} & set(ids)
        assert question in copy.tokenizer.decode(ids)
        trained, labels = copy.training_ids([Turn("user", "a?", 1), Turn("assistant", token)])
        assert trained.count(IMAGE) == copy.num_patches
        assert trained.count(EOS) == labels.count(EOS) == 1


@pytest.mark.parametrize("ask", ["prompt", "continue", "next"])
@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("", "the question is empty"),
        (" \n\t", "the question is empty"),
        ("a" * (MAX_QUESTION_CHARS + 1), "8,193 characters long: at most 8,192"),
        ("caf\udce9?", "not UTF-8"),
    ],
)
def test_questions_that_cannot_be_asked(ask, question, reason):
    processor = tiny_processor()
    functions = {
        "prompt": lambda q: processor.prompt_ids([Turn("user", q, 1)]),
        "continue": processor.continue_ids,
        "next": processor.next_turn_ids,
    }
    with pytest.raises(QuestionError, match=reason) as caught:
        functions[ask](question)
    assert "\n" not in str(caught.value)


def test_the_longest_question_is_asked():
    assert tiny_processor().continue_ids("a" * MAX_QUESTION_CHARS)


def test_a_prompt_ends_with_a_question_and_a_lesson_with_an_answer():
    processor = tiny_processor()
    with pytest.raises(ValueError, match="ends with the user's turn"):
        processor.prompt_ids([Turn("user", "a?"), Turn("assistant", "b")])
    with pytest.raises(ValueError, match="ends with the user's turn"):
        processor.prompt_ids([])
    with pytest.raises(ValueError, match="no assistant turn"):
        processor.training_ids([Turn("user", "a?")])


def test_decode_ends_at_eos_without_spaces_and_special_tokens():
    processor = tiny_processor()
    ids, labels = processor.training_ids(
        [Turn("user", "a?"), Turn("assistant", "a naïve café — 猫 🐈")]
    )
    answer = [id_ for id_, label in zip(ids, labels, strict=True) if label != IGNORE_INDEX]
    assert processor.decode(answer) == "a naïve café — 猫 🐈"
    assert processor.decode([*answer, *answer]) == "a naïve café — 猫 🐈"
    assert processor.decode([PAD, IMAGE, *answer]) == "a naïve café — 猫 🐈"
    assert processor.decode([]) == ""


# Tokenizers


def neox_like(size: int = 50_277) -> Tokenizer:
    vocab = {"<|endoftext|>": 0, "<|padding|>": 1} | {f"t{i}": i for i in range(2, size)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<|endoftext|>", "<|padding|>")]
    )
    return tokenizer


def test_gpt_neox_gets_its_image_token_in_the_padded_rows():
    tokenizer = neox_like()
    tokens = gpt_neox_tokens(tokenizer)
    assert tokens == {"image_token_id": 50277, "eos_token_id": 0, "pad_token_id": 1}
    assert gpt_neox_tokens(tokenizer) == tokens, "doing it twice changes nothing"
    assert Processor(tokenizer, ImageSettings(16), 4, **tokens).image_token_id == 50277


def test_another_tokenizer_is_not_taken_for_gpt_neox():
    with pytest.raises(ValueError, match="its first free id is 100, expected 50277"):
        gpt_neox_tokens(neox_like(100))
    with pytest.raises(ValueError, match="this is not the GPT-NeoX tokenizer"):
        gpt_neox_tokens(Tokenizer(models.BPE({"a": 0}, [])))


def test_image_token_is_added_once():
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    assert add_image_token(tokenizer) == add_image_token(tokenizer) == 1


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ({"image_token_id": 50}, "image token 50 is not a special token"),
        ({"image_token_id": 9999}, "image token 9999 is not a special token"),
        ({"image_token_id": IMAGE, "pad_token_id": EOS}, "three different tokens"),
    ],
)
def test_the_three_tokens_are_checked(ids, reason):
    with pytest.raises(ValueError, match=reason):
        Processor(tiny_tokenizer(), ImageSettings(16), 4, **ids)


def test_padding_and_truncation_of_the_tokenizer_file_are_off():
    tokenizer = tiny_tokenizer()
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(2)
    processor = Processor(tokenizer, ImageSettings(16), 4, image_token_id=IMAGE)
    assert processor.continue_ids("What is this?") == tiny_processor().continue_ids("What is this?")


# Files


@pytest.mark.parametrize("template", TEMPLATES)
def test_save_and_load(tmp_path, template):
    image = ImageSettings(16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "squash", "bilinear")
    processor = Processor(tiny_tokenizer(), image, 4, template, image_token_id=IMAGE)
    processor.save(tmp_path)
    loaded = Processor.load(tmp_path)
    assert (loaded.image, loaded.template, loaded.num_patches) == (image, template, 4)
    assert (loaded.image_token_id, loaded.eos_token_id, loaded.pad_token_id) == (IMAGE, EOS, PAD)
    turns = [Turn("user", "What <image>?", 2), Turn("assistant", "é")]
    assert loaded.training_ids(turns) == processor.training_ids(turns)


def test_transformers_reads_the_tokenizer_files(tmp_path):
    transformers = pytest.importorskip("transformers")
    processor = tiny_processor()
    processor.save(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (EOS, PAD)
    assert (tokenizer.image_token_id, tokenizer.padding_side) == (IMAGE, "left")
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}
    ]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    once = Processor(tiny_tokenizer(), processor.image, 1, image_token_id=IMAGE)
    assert ids == once.prompt_ids([Turn("user", "What is this?", 1)])


FILES = ["tokenizer.json", "tokenizer_config.json", "processor_config.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}"])
def test_missing_and_broken_files(tmp_path, name, content):
    tiny_processor().save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(FileNotFoundError if content is None else ValueError) as caught:
        Processor.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s["image_processor"].update(aspect="crop"), "aspect 'crop' is unknown"),
        (lambda s: s["image_processor"].update(resample=5), "resample 5 is unknown"),
        (lambda s: s["image_processor"].pop("image_mean"), "lack the key 'image_mean'"),
        (lambda s: s["image_processor"].update(image_std=0.5), "cannot be used"),
        (lambda s: s["template"].update(voice="loud"), "voice"),
        (lambda s: s["template"].update(user="hello"), "must hold {pictures} once"),
        (lambda s: s.update(num_patches="many"), "num_patches"),
        (lambda s: s.pop("template"), "lack the key 'template'"),
    ],
)
def test_unknown_values_in_the_settings(tmp_path, change, reason):
    tiny_processor().save(tmp_path)
    path = tmp_path / "processor_config.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=reason) as caught:
        Processor.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_token_that_the_tokenizer_lacks(tmp_path):
    tiny_processor().save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(path.read_text().replace("<image>", "<picture>"))
    with pytest.raises(ValueError, match="no token '<picture>'"):
        Processor.load(tmp_path)


def test_tiny_processor_fits_the_tiny_model():
    config = tiny_config()
    assert tiny_processor().num_patches == config.vision.num_patches
