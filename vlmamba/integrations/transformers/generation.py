"""Generation: transformers' `generate` over a recurrent state and over prompts with pictures."""

# transformers types `generate` for a protocol that its own models do not satisfy.
# pyright: reportAttributeAccessIssue=false, reportIncompatibleMethodOverride=false

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.generation.logits_process import (
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
)

from vlmamba.integrations.transformers.cache import StateCache


class VLMambaGenerationMixin(GenerationMixin):
    """The steps of `generate` that depend on the model: its cache, its pictures, the token it never writes."""

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """transformers picks a cache by the class's name; here the language model decides."""
        if not self.config.has_own_language_model:
            self.model.language_model._prepare_cache_for_generation(
                generation_config, model_kwargs, *args, **kwargs
            )
            caches = (model_kwargs.get(name) for name in ("past_key_values", "cache_params"))
            if all(cache is None for cache in caches):
                model_kwargs["use_cache"] = False  # else only the last token would be read
            return
        if generation_config.cache_implementation is not None:
            raise ValueError(
                f"cache_implementation {generation_config.cache_implementation!r} is for keys and values; "
                "a Mamba language model keeps a state of fixed size: leave it out"
            )
        if generation_config.use_cache is not False and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = StateCache()

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """The image token is an input: it is never written."""
        image_token = torch.tensor([self.config.image_token_id], device=self.device)
        processors = super()._get_logits_processor(*args, **kwargs)
        processors.append(SuppressTokensLogitsProcessor(image_token, self.device))
        return processors

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Beams and several answers: a row's pictures are encoded once and repeated together with the row."""
        pixel_values = model_kwargs.pop("pixel_values", None)
        image_embeds = model_kwargs.pop("image_embeds", None)
        if pixel_values is not None and expand_size > 1:
            image_embeds, pixel_values = self.get_image_features(pixel_values.to(self.device)), None
        if image_embeds is not None and input_ids is not None:
            per_row = self._num_pictures(input_ids).tolist()
            rows = image_embeds.split(per_row)
            image_embeds = torch.cat([row for row in rows for _ in range(expand_size)])
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        pictures = {"pixel_values": pixel_values, "image_embeds": image_embeds}
        return input_ids, model_kwargs | {k: v for k, v in pictures.items() if v is not None}

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As transformers', and of the pictures only those whose tokens are still to be read."""
        pictures = {k: kwargs.pop(k, None) for k in ("pixel_values", "image_embeds")}
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        unread = inputs.get("input_ids")
        given = {k: v for k, v in pictures.items() if v is not None}
        if unread is None or unread.shape[1] == 1 or not given:
            return inputs | (given if unread is None else {})
        return inputs | {k: self._unread(v, input_ids, unread) for k, v in given.items()}

    def _unread(self, pictures: Tensor, input_ids: Tensor, unread: Tensor) -> Tensor | None:
        """`pictures` of all of input_ids (b, l), or of `unread`, its last columns -> those of `unread`."""
        every, last = self._num_pictures(input_ids), self._num_pictures(unread)
        if len(pictures) == int(every.sum()):
            rows = pictures.split(every.tolist())
            pictures = torch.cat([row[len(row) - n :] for row, n in zip(rows, last, strict=True)])
        return pictures if len(pictures) else None

    def _num_pictures(self, input_ids: Tensor) -> Tensor:
        """Pictures in each row of input_ids (b, l): (b,)."""
        at_image = input_ids == self.config.image_token_id
        return at_image.sum(1) // self.model.features.num_patches
