"""VL-Mamba as a transformers model: the package's own modules under transformers' base class."""

from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, Cache, PreTrainedModel
from transformers.utils.generic import ModelOutput

from vlmamba.config import ConnectorConfig, text_from_dict, vision_from_dict
from vlmamba.connector import build_connector
from vlmamba.integrations.transformers.cache import StateCache
from vlmamba.integrations.transformers.config import VLMambaConfig
from vlmamba.integrations.transformers.generation import VLMambaGenerationMixin
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
    input_modalities: ClassVar[Any] = ["image", "text"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # Trainer hands over num_items_in_batch
    _no_split_modules: ClassVar[Any] = ["MambaBlock", "VisionLayer"]
    _skip_keys_device_placement: ClassVar[Any] = ["past_key_values", "cache_params"]
    _keep_in_fp32_modules_strict: ClassVar[Any] = {"A_log", "D", "dt_proj.bias"}
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
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        model, info = loaded
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

    vision_tower: Any  # VisionTower, or a vision model of transformers
    language_model: Any  # MambaModel, or a causal language model of transformers

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

    def set_input_embeddings(self, value: Any) -> None:
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


class VLMambaForConditionalGeneration(VLMambaPreTrainedModel, VLMambaGenerationMixin):
    """The whole model. Weights are named as `vlmamba.model.VLMamba` names them.

    A language model of transformers' is held whole, head included, under `model.language_model`, so that
    what its own class does to embeddings and logits is done here too.
    """

    model: VLMambaModel
    lm_head: Any  # where the language model is this package's own

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

    def set_input_embeddings(self, value: Any) -> None:
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
        embeds = self._embeds(input_ids, inputs_embeds, pixel_values, image_embeds)
        if use_cache is None:
            use_cache = self.config.text_config.use_cache and not torch.is_grad_enabled()
        cache = past_key_values if past_key_values is not None else cache_params
        if self.config.has_own_language_model:
            output = self._run_mamba(
                embeds, attention_mask, cache, bool(use_cache), logits_to_keep, **kwargs
            )
        else:
            output = self._run_other(
                embeds, logits_to_keep,
                attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache,
                past_key_values=past_key_values, cache_params=cache_params, **kwargs,
            )  # fmt: skip
        if labels is not None:
            logits: Any = output.logits
            loss = _loss(logits, labels, num_items_in_batch)
            output = VLMambaOutput(loss=loss, **output)  # the loss comes first in a tuple
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()

    def _embeds(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        pixel_values: Tensor | None,
        image_embeds: Tensor | None,
    ) -> Tensor:
        """What the language model reads (b, l, d), from either kind of input."""
        if input_ids is not None and inputs_embeds is None:
            return self.model.embed(input_ids, pixel_values, image_embeds)
        if input_ids is not None or inputs_embeds is None:
            raise ValueError("give either input_ids or inputs_embeds")
        if pixel_values is not None or image_embeds is not None:
            raise ValueError(
                "pictures are placed at image tokens: give input_ids with them, not inputs_embeds"
            )
        return inputs_embeds

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
