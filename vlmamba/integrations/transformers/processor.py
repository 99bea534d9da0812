"""Tokenizer, pictures and prompt template under transformers' interface: the same ids as the package's own."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import load_image

from vlmamba.integrations.transformers.image_processor import flat
from vlmamba.processing import IGNORE_INDEX, Processor, image_settings
from vlmamba.template import Template, Turn


class VLMambaProcessor(ProcessorMixin):
    """Conversations and pictures -> the model's inputs.

    `apply_chat_template(..., tokenize=True)` gives exactly the ids of `vlmamba.processing.Processor`, in which a
    user's words never become special tokens. A prompt given as text is tokenised whole: there `<image>` is a
    picture's place.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_patches: int | None = None,
        template: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
    ) -> None:
        if num_patches is None:
            raise ValueError("num_patches, the number of image tokens of one picture, is needed")
        self.num_patches = num_patches
        self.template = dict(template or {})
        self.image_token = tokenizer.image_token
        self.image_token_id = tokenizer.image_token_id
        if chat_template is None:
            chat_template = Template(**self.template).to_jinja()
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @cached_property
    def own(self) -> Processor:
        """The package's own processor, over a copy of the tokenizer."""
        return Processor(
            Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str()),
            image_settings(dict(vars(self.image_processor))),
            self.num_patches,
            Template(**self.template),
            image_token_id=self.image_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )

    def __call__(  # type: ignore[override]
        self, images: Any = None, text: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Prompts as text, `<image>` at each picture's place, and their pictures -> the model's inputs.

        Raises ValueError unless there are as many pictures as places.
        """
        images = self.image_processor.fetch_images(images) if images is not None else None
        given = len(list(flat(images)))
        prompts = [text] if isinstance(text, str) else text or []
        places = sum(prompt.count(self.image_token) for prompt in prompts)
        if text is not None and given != places:
            raise ValueError(
                f"the text has {places} places for pictures ({self.image_token}), but {given} were given"
            )
        return super().__call__(images=images if given else None, text=text, **kwargs)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """The image tokens of one picture."""
        return self.image_token * self.num_patches

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: Any = None,
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """One conversation or several, in transformers' form -> text, or with `tokenize` the model's inputs.

        Pictures of a message ({"type": "image", "image" | "url" | "path": ...}) come before its words. With
        `return_assistant_tokens_mask` the inputs hold `assistant_masks`, 1 where an answer is learnt.
        Raises ValueError for an order of turns that the template does not have.
        """
        batched = not isinstance(conversation[0], Mapping)
        conversations = conversation if batched else [conversation]
        asks = conversations[0][-1]["role"] == "user"
        if not tokenize or chat_template is not None or (asks and not add_generation_prompt):
            return super().apply_chat_template(
                conversation, chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                return_assistant_tokens_mask=return_assistant_tokens_mask,
                tokenize=tokenize, return_tensors=return_tensors, return_dict=return_dict,
                processor_kwargs=dict(processor_kwargs or {}), **kwargs,
            )  # fmt: skip
        pictures: list[Any] = []
        rows, masks = zip(
            *(self._encode(_turns(c, pictures), continue_final_message) for c in conversations),
            strict=True,
        )
        if (images := {**kwargs, **(processor_kwargs or {})}.get("images")) is not None:
            pictures = list(flat(self.image_processor.fetch_images(images)))
        if any(picture is None for picture in pictures):
            raise ValueError(
                "a message's image names no picture: give it as image, url, path or base64, or all in images="
            )
        inputs = self._batch(rows, masks if return_assistant_tokens_mask else None)
        if pictures:
            opened = self.image_processor(pictures)
            inputs["pixel_values"] = opened["pixel_values"]
        tensors = None if return_tensors == "auto" else return_tensors
        features = BatchFeature(inputs, tensor_type=tensors)
        return features if return_dict else features["input_ids"]

    def _encode(
        self, turns: Sequence[Turn], continue_final_message: bool
    ) -> tuple[list[int], list[int]]:
        """A conversation's ids, and 1 where they are learnt."""
        if turns[-1].role == "user":
            ids = self.own.prompt_ids(turns)
            return ids, [0] * len(ids)
        ids, labels = self.own.training_ids(turns)
        end = len(ids) - (len(self.own.end_ids()) if continue_final_message else 0)
        return ids[:end], [int(label != IGNORE_INDEX) for label in labels[:end]]

    def _batch(
        self, rows: Sequence[list[int]], masks: Sequence[list[int]] | None
    ) -> dict[str, Any]:
        """Rows of one length, padded on the tokenizer's side."""
        longest = max(map(len, rows))

        def pad(row: list[int], value: int) -> list[int]:
            padding = [value] * (longest - len(row))
            return padding + row if self.tokenizer.padding_side == "left" else row + padding

        inputs = {
            "input_ids": [pad(row, self.tokenizer.pad_token_id) for row in rows],
            "attention_mask": [pad([1] * len(row), 0) for row in rows],
        }
        if masks is not None:
            inputs["assistant_masks"] = [pad(mask, 0) for mask in masks]
        return inputs


def _turns(messages: Sequence[Mapping[str, Any]], pictures: list[Any]) -> list[Turn]:
    """transformers' messages -> turns; what names their pictures is added to `pictures`."""
    turns = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        unknown = {part["type"] for part in parts} - {"text", "image"}
        if unknown:
            raise ValueError(
                f"a message holds {', '.join(sorted(unknown))}: only text and images are read"
            )
        shown = [_source(part) for part in parts if part["type"] == "image"]
        pictures += shown
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        turns.append(Turn(message["role"], text, len(shown)))
    return turns


def _source(part: Mapping[str, Any]) -> Any:
    """What names the picture of a message's part; None where it is handed over apart."""
    if "base64" in part:
        return load_image(part["base64"])
    return next((part[key] for key in ("image", "url", "path") if key in part), None)
