"""VL-Mamba as a transformers model: the package's own modules under transformers' base class."""

from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, Cache, GenerationMixin, PreTrainedModel
from transformers.generation import LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.modeling_outputs import ModelOutput

from vlmamba.config import ConnectorConfig, text_from_dict, vision_from_dict
from vlmamba.connector import build_connector
from vlmamba.integrations.transformers.cache import StateCache
from vlmamba.integrations.transformers.config import VLMambaConfig
from vlmamba.integrations.transformers.tower import Features, features_of
from vlmamba.integrations.transformers.weights import check_loading, initialise
from vlmamba.mamba import MambaModel
from vlmamba.model import IGNORE_INDEX, check_image_tokens
from vlmamba.vision import VisionTower

LM_HEAD = "lm_head.weight"
EMBEDDINGS = "model.language_model.embeddings.weight"


@dataclass
class VLMambaOutput(ModelOutput):
    """loss, where labels were given; logits (b, l, v); the cache that the next call continues from.

    A transformers language model that names its cache `cache_params` gets it back under that name.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    cache_params: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class VLMambaPreTrainedModel(PreTrainedModel):
    """What the model and its base share: how weights begin, which stay in float32, how a directory is read."""

    config_class = VLMambaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # Trainer hands over num_items_in_batch
    _no_split_modules = ["MambaBlock", "VisionLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values", "cache_params"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = {"A_log", "D", "dt_proj.bias"}  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _is_stateful = (
        True  # transformers then refuses assisted generation, which needs a cache it can cut
    )

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module, self)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        strict: bool = True,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As transformers', but a weight that is missing, left over or not finite is an error.

        `strict=False` brings back transformers' behaviour: a report, and random values for what is missing.
        """
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        if strict:
            check_loading(model, info, str(pretrained_model_name_or_path))
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self, *args: Any, save_original_format: bool = False, **kwargs: Any
    ) -> None:
        """As transformers', but weights keep the names they have here, which a resumed Trainer looks for."""
        super().save_pretrained(*args, save_original_format=save_original_format, **kwargs)


class VLMambaModel(VLMambaPreTrainedModel):
    """Vision tower, connector and language model: ids and pictures -> embeddings of the prompt."""

    def __init__(self, config: VLMambaConfig) -> None:
        super().__init__(config)
        vision, text = config.vision_config, config.text_config
        if config.has_own_tower:
            own = vision_from_dict(vision.to_dict(), config.vision_feature_layer)
            self.vision_tower = VisionTower(own)
            self.features = Features(own.hidden_size, own.grid)
        else:
            self.vision_tower = AutoModel.from_config(vision)
            self.features = features_of(vision, config.vision_feature_layer)
        self.connector = build_connector(
            self.features.width, text.hidden_size, ConnectorConfig(**config.connector_config)
        )
        if config.has_own_language_model:
            self.language_model = MambaModel(
                text_from_dict(text.to_dict(), config.tie_word_embeddings)
            )
        else:
            self.language_model = AutoModelForCausalLM.from_config(text)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        if isinstance(self.language_model, MambaModel):
            return self.language_model.embeddings
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        if isinstance(self.language_model, MambaModel):
            self.language_model.embeddings = value
        else:
            self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Pictures (images, c, h, w) -> what the language model reads of them (images, p, d)."""
        if isinstance(self.vision_tower, VisionTower):
            features = self.vision_tower(pixel_values)
        else:
            pixel_values = pixel_values.to(self.vision_tower.dtype)
            output = self.vision_tower(pixel_values=pixel_values, output_hidden_states=True)
            hidden = output.hidden_states[self.config.vision_feature_layer]
            features = self.features.patches(hidden)
        return self.connector(features, self.features.grid)

    def embed(
        self, input_ids: Tensor, pixel_values: Tensor | None, image_embeds: Tensor | None
    ) -> Tensor:
        """Token embeddings (b, l, d) with the pictures' in place of the image tokens.

        Raises ValueError when the number of image tokens does not fit the number of pictures.
        """
        if pixel_values is not None:
            image_embeds = self.get_image_features(pixel_values)
        embeds = self.get_input_embeddings()(input_ids)
        at_image = input_ids == self.config.image_token_id  # (b, l)
        num_images = 0 if image_embeds is None else len(image_embeds)
        check_image_tokens(at_image, num_images, self.features.num_patches)
        if image_embeds is None:
            return embeds
        return embeds.masked_scatter(at_image[..., None], image_embeds.to(embeds))


class VLMambaForConditionalGeneration(VLMambaPreTrainedModel, GenerationMixin):
    """The whole model. Weights are named as `vlmamba.model.VLMamba` names them.

    A language model of transformers' is held whole, head included, under `model.language_model`, so that
    what its own class does to embeddings and logits is done here too.
    """

    def __init__(self, config: VLMambaConfig) -> None:
        super().__init__(config)
        self.model = VLMambaModel(config)
        if config.has_own_language_model:
            text = config.text_config
            self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
            self._tied_weights_keys = {LM_HEAD: EMBEDDINGS}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        if self.config.has_own_language_model:
            return self.lm_head
        return self.model.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        if self.config.has_own_language_model:
            self.lm_head = new_embeddings
        else:
            self.model.language_model.set_output_embeddings(new_embeddings)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Pictures (images, c, h, w) -> what the language model reads of them (images, p, d)."""
        return self.model.get_image_features(pixel_values)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache_params: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> VLMambaOutput | tuple:
        """input_ids (b, l) and pictures (images, c, h, w), or inputs_embeds (b, l, d) -> logits (b, l, v).

        The pictures of a batch, as `pixel_values` or as `image_embeds` (images, p, d) from
        `get_image_features`, stand in the order of their tokens, row by row. `attention_mask` (b, l), or over
        everything read so far. `labels` (b, l), -100 where nothing is learnt: adds the mean loss over supervised
        tokens, or their sum divided by `num_items_in_batch`. `logits_to_keep`: the last positions that get
        logits, 0 for all, or their indices. Other arguments reach only a transformers language model.
        Raises ValueError when pictures and image tokens do not fit.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.model.embed(input_ids, pixel_values, image_embeds)
        elif pixel_values is not None or image_embeds is not None:
            raise ValueError(
                "pictures are placed at image tokens: give input_ids with them, not inputs_embeds"
            )
        if use_cache is None:
            use_cache = self.config.text_config.use_cache and not torch.is_grad_enabled()
        if self.config.has_own_language_model:
            output = self._run_mamba(
                inputs_embeds, attention_mask, cache_params if past_key_values is None else past_key_values,
                use_cache,                logits_to_keep, **kwargs,
            )  # fmt: skip
        else:
            output = self._run_other(
                inputs_embeds, logits_to_keep,
                attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache,
                past_key_values=past_key_values, cache_params=cache_params, **kwargs,
            )  # fmt: skip
        if labels is not None:
            loss = _loss(output.logits, labels, num_items_in_batch)
            output = VLMambaOutput(loss=loss, **output)  # the loss comes first in a tuple
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()

    def _run_mamba(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        cache: Cache | None,
        use_cache: bool,
        logits_to_keep: int | Tensor,
        **kwargs: Any,
    ) -> VLMambaOutput:
        """The package's own language model and head."""
        if kwargs.get("output_hidden_states") or kwargs.get("output_attentions"):
            raise ValueError(
                "the Mamba language model gives neither hidden states nor attentions: leave "
                "output_hidden_states and output_attentions out, or hook its layers"
            )
        if cache is None and use_cache:
            cache = StateCache()
        if cache is not None and not isinstance(cache, StateCache):
            raise ValueError(
                f"a Mamba language model keeps a recurrent state, not a {type(cache).__name__}: "
                "leave past_key_values out, or give a StateCache"
            )
        l = inputs_embeds.shape[1]
        if attention_mask is not None:
            attention_mask = attention_mask[:, -l:]
        model = self.model.language_model
        state = cache.for_input(inputs_embeds, model) if cache is not None else None
        hidden = model(inputs_embeds, state=state, attention_mask=attention_mask)
        if cache is not None:
            cache.advance(l)
        return VLMambaOutput(
            logits=self.lm_head(_positions(hidden, logits_to_keep)),
            past_key_values=cache,
        )

    def _run_other(
        self, inputs_embeds: Tensor, logits_to_keep: int | Tensor, **kwargs: Any
    ) -> VLMambaOutput:
        """A language model of transformers', with its own head and under its own cache."""
        model = self.model.language_model
        known = signature(model.forward).parameters
        if "logits_to_keep" in known:
            kwargs["logits_to_keep"] = logits_to_keep
        optional = ("position_ids", "past_key_values", "cache_params")
        passed = {k: v for k, v in kwargs.items() if k not in optional or v is not None}
        output = model(inputs_embeds=inputs_embeds, return_dict=True, **passed)
        logits = output.logits
        if "logits_to_keep" not in known:
            logits = _positions(logits, logits_to_keep)
        kept = ("past_key_values", "cache_params", "hidden_states", "attentions")
        return VLMambaOutput(logits=logits, **{k: output.get(k) for k in kept})

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """transformers picks a cache by the class's name; here the language model decides."""
        if not self.config.has_own_language_model:
            self.model.language_model._prepare_cache_for_generation(
                generation_config, model_kwargs, *args, **kwargs
            )
            if not any(model_kwargs.get(name) for name in ("past_key_values", "cache_params")):
                model_kwargs["use_cache"] = False
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


def _positions(x: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The positions of x (b, l, ..) that get logits: the last ones, all for 0, or the given indices."""
    return x[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else x[:, logits_to_keep]


def _loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
    """Next-token cross-entropy, summed over supervised tokens and divided by `num_items` or their number."""
    targets = labels[:, 1:]
    supervised = targets != IGNORE_INDEX
    total = F.cross_entropy(
        logits[:, :-1][supervised].float(), targets[supervised], reduction="sum"
    )
    count = supervised.sum().clamp(min=1) if num_items is None else num_items
    return total / torch.as_tensor(count, device=total.device)
