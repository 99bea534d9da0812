"""The configuration as transformers reads it; what it means is decided by `vlmamba.config` alone."""

from dataclasses import asdict, fields
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from vlmamba.config import ConnectorConfig, ModelConfig

# The towers and language models that this package builds itself; any other model_type is transformers'.
OWN_TOWERS = ("siglip_vision_model", "clip_vision_model")
OWN_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
OWN_LANGUAGE_MODEL = "mamba"


class VLMambaConfig(PreTrainedConfig):
    """`config.json` of a model directory.

    `vision_config` and `text_config` are transformers configurations or their dictionaries. SigLIP and
    CLIP towers and a Mamba language model are this package's own; others are built by transformers.
    Raises ValueError for an unknown connector key or value.
    """

    model_type = "vlmamba"
    sub_configs: ClassVar[Any] = {"vision_config": AutoConfig, "text_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[Any] = ["past_key_values", "cache_params"]

    vision_config: Any = None
    text_config: Any = None
    connector_config: Any = None
    vision_feature_layer: int = -2
    image_token_id: int = 50277  # the first row that the GPT-NeoX tokenizer leaves free
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = 1
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = _sub_config(self.vision_config, "siglip_vision_model")
        self.text_config = _sub_config(self.text_config, OWN_LANGUAGE_MODEL)
        self.connector_config = _connector(self.connector_config or {})
        super().__post_init__(**kwargs)

    @property
    def has_own_tower(self) -> bool:
        """Whether the tower is this package's, not one of transformers' models."""
        config = self.vision_config
        return config.model_type in OWN_TOWERS and config.hidden_act in OWN_ACTIVATIONS

    @property
    def has_own_language_model(self) -> bool:
        """Whether the language model is this package's Mamba, not one of transformers' models."""
        return self.text_config.model_type == OWN_LANGUAGE_MODEL

    def to_own(self) -> ModelConfig:
        """The same model in `vlmamba.config`; raises ValueError when a part of it is transformers'."""
        return ModelConfig.from_dict(self.to_dict())

    def to_diff_dict(self) -> dict[str, Any]:
        """Every key of the model itself, defaults too: this package's own loader reads `config.json` as well."""
        full = self.to_dict()
        for name in self.sub_configs:
            full[name].pop("_name_or_path", None)
        own = [f.name for f in fields(self) if f.name in VLMambaConfig.__annotations__]
        return super().to_diff_dict() | {name: full[name] for name in own}


def _sub_config(config: dict | PreTrainedConfig | None, model_type: str) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    values = {"model_type": model_type, **(config or {})}
    return AutoConfig.for_model(**values)


def _connector(values: dict[str, Any]) -> dict[str, Any]:
    known = [f.name for f in fields(ConnectorConfig)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"connector_config has unknown keys {unknown}: known are {known}")
    return asdict(ConnectorConfig(**values))
