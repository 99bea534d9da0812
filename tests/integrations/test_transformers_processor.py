"""The processor under transformers' interface: ids and pixels of the package's own, chat templates, the pipeline."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from small import EOS, IMAGE, PAD, PATCHES, small_model, small_processor
from transformers import AutoProcessor, pipeline
from transformers.models.auto import image_processing_auto

from vlmamba.checkpoints import load_model, save_model
from vlmamba.integrations.transformers import VLMambaImageProcessor, VLMambaProcessor
from vlmamba.model import IGNORE_INDEX, VLMamba
from vlmamba.processing import Processor
from vlmamba.template import Template, Turn


def picture(seed: int = 0, size: tuple[int, int] = (19, 31)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def message(role: str, text: str, *pictures) -> dict:
    return {
        "role": role,
        "content": [
            *({"type": "image", "image": p} for p in pictures),
            {"type": "text", "text": text},
        ],
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model directory written by the package itself."""
    path = tmp_path_factory.mktemp("processor") / "model"
    theirs = small_model()
    model = VLMamba(theirs.config.to_own())
    model.load_state_dict(theirs.state_dict())
    save_model(path, model, small_processor())
    return path


@pytest.fixture(scope="module")
def processor(directory) -> VLMambaProcessor:
    return AutoProcessor.from_pretrained(directory)


@pytest.fixture(scope="module")
def own(directory) -> Processor:
    return Processor.load(directory)


@pytest.fixture(scope="module")
def pipe(directory):
    return pipeline("image-text-to-text", model=str(directory))


CONVERSATIONS = {
    "one picture": [Turn("user", "What is it?", 1)],
    "two pictures": [Turn("user", "Which is red?", 2)],
    "none": [Turn("user", "Hello")],
    "three turns": [Turn("user", "What?", 1), Turn("assistant", "A cat"), Turn("user", "Sure?", 1)],
    "odd spaces": [Turn("user", "  \n spaced \n", 1)],
    "special words": [Turn("user", "Is <image> or <|endoftext|> here?", 1)],
}


def as_messages(turns: list[Turn]) -> tuple[list[dict], list[Image.Image]]:
    pictures = [picture(i) for i in range(sum(turn.num_pictures for turn in turns))]
    left = iter(pictures)
    return [
        message(turn.role, turn.text, *(next(left) for _ in range(turn.num_pictures)))
        for turn in turns
    ], pictures


@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
class TestChat:
    def test_ids_and_pixels_are_the_own_ones(self, processor, own, turns):
        messages, pictures = as_messages(turns)
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        assert inputs["input_ids"].tolist() == [own.prompt_ids(turns)]
        assert inputs["attention_mask"].eq(1).all()
        if pictures:
            assert torch.equal(inputs["pixel_values"], own.pixel_values(pictures))
        else:
            assert "pixel_values" not in inputs

    def test_the_assistants_part_is_what_training_learns(self, processor, own, turns):
        whole = [*turns, Turn("assistant", "It is a cat.")]
        messages, _ = as_messages(whole)
        inputs = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, labels = own.training_ids(whole)
        assert inputs["input_ids"] == [ids]
        assert inputs["assistant_masks"] == [[int(label != IGNORE_INDEX) for label in labels]]

    def test_an_answer_is_continued(self, processor, own, turns):
        whole = [*turns, Turn("assistant", "It is")]
        ids = processor.apply_chat_template(
            as_messages(whole)[0], tokenize=True, continue_final_message=True
        )
        assert ids == [own.training_ids(whole)[0][:-1]]

    def test_the_text_is_the_template(self, processor, own, turns):
        text = processor.apply_chat_template(as_messages(turns)[0], add_generation_prompt=True)
        assert text == own.template.render(turns, "<|endoftext|>")


class TestText:
    def test_a_rendered_prompt_gives_the_same_ids(self, processor, own):
        turns = CONVERSATIONS["two pictures"]
        messages, pictures = as_messages(turns)
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(text=text, images=pictures, return_tensors="pt")
        assert inputs["input_ids"].tolist() == [own.prompt_ids(turns)]
        assert torch.equal(inputs["pixel_values"], own.pixel_values(pictures))

    def test_a_batch_is_padded_on_the_left(self, processor):
        inputs = processor(
            text=["<image>\nlong enough?", "no"],
            images=[[picture()], []],
            padding=True,
            return_tensors="pt",
        )
        assert inputs["input_ids"][1, 0] == PAD
        assert inputs["attention_mask"][1].tolist() == [0] * (inputs["input_ids"].shape[1] - 2) + [
            1,
            1,
        ]
        assert inputs["input_ids"][0].eq(IMAGE).sum() == PATCHES

    def test_a_batch_of_conversations_is_padded_on_the_left(self, processor, own):
        turns = [CONVERSATIONS["two pictures"], CONVERSATIONS["none"]]
        messages = [as_messages(t)[0] for t in turns]
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        for i, t in enumerate(turns):
            real = inputs["attention_mask"][i].bool()
            assert inputs["input_ids"][i, real].tolist() == own.prompt_ids(t)
            assert real[-1]
        assert len(inputs["pixel_values"]) == 2

    def test_more_or_fewer_pictures_than_places_is_an_error(self, processor):
        for text, pictures in (
            ("<image> and <image>?", [picture()]),
            ("<image>", []),
            ("none", [picture()]),
        ):
            with pytest.raises(ValueError, match="places for pictures"):
                processor(text=text, images=pictures)

    def test_turns_out_of_order_and_other_media_are_errors(self, processor):
        with pytest.raises(ValueError, match="turns alternate"):
            processor.apply_chat_template(
                [message("assistant", "Hi"), message("user", "Hi")],
                add_generation_prompt=True,
                tokenize=True,
            )
        video = [{"role": "user", "content": [{"type": "video", "path": "a.mp4"}]}]
        with pytest.raises(ValueError, match="video: only text and images are read"):
            processor.apply_chat_template(video, add_generation_prompt=True, tokenize=True)

    def test_answers_are_decoded_without_special_tokens(self, processor, own):
        ids = own.training_ids([Turn("user", "What?"), Turn("assistant", "A cat")])[0]
        assert ids[-1] == EOS
        assert processor.decode(ids, skip_special_tokens=True).endswith("Assistant: A cat")


class TestPictures:
    def test_every_way_of_naming_a_picture(self, processor, own, tmp_path):
        path = tmp_path / "picture.png"
        picture().save(path)
        buffer = io.BytesIO()
        picture().save(buffer, "PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        parts = [
            {"image": picture()},
            {"path": str(path)},
            {"url": str(path)},
            {"image": f"data:image/png;base64,{encoded}"},
            {"base64": encoded},
            {"image": np.asarray(picture())},
            {"image": torch.from_numpy(np.array(picture())).permute(2, 0, 1)},
        ]
        content = [{"type": "image", **part} for part in parts] + [
            {"type": "text", "text": "Same?"}
        ]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        expected = own.pixel_values([picture()] * len(parts))
        assert torch.equal(inputs["pixel_values"], expected)

    def test_pictures_may_come_apart_from_the_messages(self, processor, own):
        content = [{"type": "image"}, {"type": "text", "text": "What?"}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True,
            return_dict=True, return_tensors="pt", processor_kwargs={"images": [picture(3)]},
        )  # fmt: skip
        assert torch.equal(inputs["pixel_values"], own.pixel_values([picture(3)]))

    def test_a_place_without_a_picture_is_an_error(self, processor):
        content = [{"type": "image"}, {"type": "text", "text": "What?"}]
        with pytest.raises(ValueError, match="names no picture"):
            processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True
            )

    def test_a_machine_with_torchvision_prepares_the_same_pixels(self, directory, monkeypatch):
        monkeypatch.setattr(image_processing_auto, "is_torchvision_available", lambda: True)
        chosen = image_processing_auto.AutoImageProcessor.from_pretrained(directory)
        assert type(chosen) is VLMambaImageProcessor
        assert (
            type(AutoProcessor.from_pretrained(directory).image_processor) is VLMambaImageProcessor
        )


class TestDirectories:
    @pytest.mark.parametrize(
        "template",
        [Template(), Template(system="Be brief. ", user="Q {pictures}{question} ", end=" END")],
    )
    def test_what_transformers_writes_the_package_reads(self, template, directory, tmp_path):
        source = small_processor()
        source.template = template
        source.save(tmp_path / "ours")
        AutoProcessor.from_pretrained(_with_config(directory, tmp_path / "ours")).save_pretrained(
            tmp_path / "theirs"
        )
        again = Processor.load(tmp_path / "theirs")
        turns = CONVERSATIONS["three turns"]
        assert again.prompt_ids(turns) == source.prompt_ids(turns)
        assert again.image == source.image
        assert again.template == template

    def test_a_directory_saved_by_transformers_loads_whole(self, directory, processor, tmp_path):
        small_model().save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        _, loaded = load_model(tmp_path)
        assert loaded.prompt_ids(CONVERSATIONS["one picture"])[-1] != EOS


def _with_config(source, directory):
    (directory / "config.json").write_text((source / "config.json").read_text())
    return directory


def five_tokens() -> dict:
    """Settings for one call: the pipeline keeps and changes the dictionary that it is given."""
    return {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}


@pytest.mark.filterwarnings("ignore::FutureWarning")
class TestPipeline:
    def test_a_chat_gets_the_models_answer(self, pipe, own):
        turns = CONVERSATIONS["one picture"]
        messages, pictures = as_messages(turns)
        answer = pipe(text=messages, return_full_text=False, generate_kwargs=five_tokens())[0][
            "generated_text"
        ]
        ids = torch.tensor([own.prompt_ids(turns)])
        expected = pipe.model.generate(
            ids,
            pixel_values=own.pixel_values(pictures),
            max_new_tokens=5,
            do_sample=False,
            eos_token_id=None,
        )
        assert answer.strip() == own.tokenizer.decode(expected[0, ids.shape[1] :].tolist()).strip()

    def test_a_batch_of_chats_gets_the_answers_they_get_alone(self, pipe):
        chats = [
            as_messages(CONVERSATIONS[name])[0] for name in ("one picture", "two pictures", "none")
        ]
        alone = [
            pipe(text=chat, return_full_text=False, generate_kwargs=five_tokens()) for chat in chats
        ]
        together = pipe(
            text=chats, return_full_text=False, batch_size=1, generate_kwargs=five_tokens()
        )
        assert [a[0]["generated_text"] for a in alone] == [t[0]["generated_text"] for t in together]

    def test_a_prompt_and_its_picture(self, pipe):
        found = pipe(images=[picture()], text="User: <image>\nWhat?\nAssistant:", max_new_tokens=3)
        assert found[0]["generated_text"].startswith("User: <image>\nWhat?\nAssistant:")
