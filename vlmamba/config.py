"""What a model is: frozen, validated dataclasses, and their JSON form.

The JSON form is the `config.json` that transformers' `save_pretrained` writes, so the vision and text
parts carry transformers' key names there; inside the package the state-space model uses the names of
state-spaces/mamba. A value that no code understands is an error, never a silent default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

IGNORE_INDEX = -100  # label of a position that is not learnt

VisionLayout = Literal["clip", "siglip"]
ConnectorKind = Literal["mlp", "mlp-wide", "vss-mlp", "vss-l2"]
ScanMechanism = Literal["bsm", "csm"]
Sharing = Literal["layer", "projections"]
Merge = Literal["mean", "sum"]
NormKind = Literal["rmsnorm", "layernorm"]


@dataclass(frozen=True)
class VisionConfig:
    """A ViT tower in CLIP's or SigLIP's layout; the features of one hidden layer feed the connector."""

    layout: VisionLayout
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int  # pixels, square
    patch_size: int  # pixels
    layer_norm_eps: float
    hidden_act: Literal["quick_gelu", "gelu", "gelu_pytorch_tanh"]
    num_channels: int = 3
    feature_layer: int = (
        -2
    )  # index into transformers' hidden_states: 0 is the embeddings, -1 the last layer

    def __post_init__(self) -> None:
        _one_of("vision layout", self.layout, VisionLayout)
        _one_of("hidden_act", self.hidden_act, type(self).__annotations__["hidden_act"])
        _positive(self, "hidden_size", "intermediate_size", "num_attention_heads", "num_channels")
        _positive(self, "num_hidden_layers", "image_size", "patch_size")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.image_size < self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is smaller than patch_size {self.patch_size}"
            )
        if not -self.num_hidden_layers - 1 <= self.feature_layer <= self.num_hidden_layers:
            raise ValueError(
                f"vision_feature_layer {self.feature_layer} does not exist in {self.num_hidden_layers} layers"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        side = self.image_size // self.patch_size
        return side, side

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def num_layers_used(self) -> int:
        """Layers below the feature layer; the tower holds these and no others."""
        return self.feature_layer % (self.num_hidden_layers + 1)


@dataclass(frozen=True)
class ConnectorConfig:
    """The multimodal connector (paper Sec. 3.2, Fig. 2), with a field for every choice the paper leaves open."""

    kind: ConnectorKind = "vss-l2"
    scan: ScanMechanism = "bsm"
    share: Sharing = (
        "layer"  # "layer": one Mamba layer serves every direction, as the paper's words say
    )
    merge: Merge = "mean"
    norm: NormKind = "rmsnorm"
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | None = None  # None: ceil(width / 16)

    def __post_init__(self) -> None:
        _one_of("connector kind", self.kind, ConnectorKind)
        _one_of("connector scan", self.scan, ScanMechanism)
        _one_of("connector share", self.share, Sharing)
        _one_of("connector merge", self.merge, Merge)
        _one_of("connector norm", self.norm, NormKind)
        _positive(self, "d_state", "d_conv", "expand")


@dataclass(frozen=True)
class MambaConfig:
    """A Mamba language model, in the names of state-spaces/mamba."""

    d_model: int = 768
    n_layer: int = 32
    vocab_size: int = 50280
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | None = None  # None: ceil(d_model / 16)
    norm_epsilon: float = 1e-5
    bias: bool = False  # of in_proj and out_proj
    conv_bias: bool = True
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        _positive(self, "d_model", "n_layer", "vocab_size", "d_state", "d_conv", "expand")

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model


@dataclass(frozen=True)
class ModelConfig:
    """The whole model: vision tower, connector, language model, and the tokens that join them."""

    vision: VisionConfig
    connector: ConnectorConfig
    text: MambaConfig
    image_token_id: int
    eos_token_id: int = 0
    pad_token_id: int = 1

    def __post_init__(self) -> None:
        if self.eos_token_id == self.pad_token_id:
            raise ValueError(
                f"eos_token_id and pad_token_id are both {self.eos_token_id}: they must differ"
            )
        for name in ("image_token_id", "eos_token_id", "pad_token_id"):
            token = getattr(self, name)
            if not 0 <= token < self.text.vocab_size:
                raise ValueError(
                    f"{name} {token} is outside the vocabulary of {self.text.vocab_size}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The `config.json` of a model directory."""
        return {
            "architectures": ["VLMambaForConditionalGeneration"],
            "model_type": "vlmamba",
            "vision_config": vision_to_dict(self.vision),
            "connector_config": {
                f.name: getattr(self.connector, f.name) for f in fields(ConnectorConfig)
            },
            "text_config": text_to_dict(self.text),
            "vision_feature_layer": self.vision.feature_layer,
            "image_token_id": self.image_token_id,
            "eos_token_id": self.eos_token_id,
            "pad_token_id": self.pad_token_id,
            "tie_word_embeddings": self.text.tie_embeddings,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ModelConfig":
        """Reads a `config.json`; raises ValueError naming the key that is missing, unknown or out of range."""
        if data.get("model_type") != "vlmamba":
            raise ValueError(
                f"config.json has model_type {data.get('model_type')!r}, expected 'vlmamba'"
            )
        for key in ("vision_config", "connector_config", "text_config", "image_token_id"):
            if key not in data:
                raise ValueError(f"config.json lacks the key {key!r}")
        known = {f.name for f in fields(ConnectorConfig)}
        unknown = sorted(set(data["connector_config"]) - known)
        if unknown:
            raise ValueError(
                f"connector_config has unknown keys {unknown}: known are {sorted(known)}"
            )
        return cls(
            vision=vision_from_dict(data["vision_config"], data.get("vision_feature_layer", -2)),
            connector=ConnectorConfig(**data["connector_config"]),
            text=text_from_dict(data["text_config"], data.get("tie_word_embeddings", True)),
            image_token_id=data["image_token_id"],
            eos_token_id=data.get("eos_token_id", 0),
            pad_token_id=data.get("pad_token_id", 1),
        )


# transformers omits keys that equal its defaults when it saves a configuration, so these are its defaults.
_VISION_DEFAULTS: dict[VisionLayout, dict[str, Any]] = {
    "siglip": {"patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    "clip": {"patch_size": 32, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu"},
}
_VISION_SIZES = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "num_channels": 3,
}
_TEXT_NAMES = {
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "vocab_size": "vocab_size",
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "dt_rank": "time_step_rank",
    "norm_epsilon": "layer_norm_epsilon",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
}


def vision_to_dict(config: VisionConfig) -> dict[str, Any]:
    """As transformers' CLIPVisionConfig and SiglipVisionConfig name it, without the feature layer."""
    names = [*_VISION_SIZES, "patch_size", "layer_norm_eps", "hidden_act"]
    return {"model_type": f"{config.layout}_vision_model"} | {k: getattr(config, k) for k in names}


def vision_from_dict(data: Mapping[str, Any], feature_layer: int) -> VisionConfig:
    model_type = data.get("model_type", "")
    layout = model_type.removesuffix("_vision_model")
    _one_of(
        "vision_config model_type",
        model_type,
        [f"{name}_vision_model" for name in _VISION_DEFAULTS],
    )
    defaults = _VISION_SIZES | _VISION_DEFAULTS[layout]
    return VisionConfig(
        layout=layout,
        feature_layer=feature_layer,
        **{k: data.get(k, v) for k, v in defaults.items()},
    )


def text_to_dict(config: MambaConfig) -> dict[str, Any]:
    """As transformers' MambaConfig names it."""
    values = {theirs: getattr(config, ours) for ours, theirs in _TEXT_NAMES.items()}
    return {
        "model_type": "mamba",
        **values,
        "time_step_rank": config.dt_rank or "auto",
        "intermediate_size": config.d_inner,
        "tie_word_embeddings": config.tie_embeddings,
    }


def text_from_dict(data: Mapping[str, Any], tie_embeddings: bool) -> MambaConfig:
    _one_of("text_config model_type", data.get("model_type", ""), ["mamba"])
    if data.get("hidden_act", "silu") != "silu":
        raise ValueError(
            f"text_config hidden_act {data['hidden_act']!r} is not supported: only 'silu' is"
        )
    values = {ours: data[theirs] for ours, theirs in _TEXT_NAMES.items() if theirs in data}
    if values.get("dt_rank") == "auto":
        values["dt_rank"] = None
    return MambaConfig(**values, tie_embeddings=tie_embeddings)


def _one_of(what: str, value: object, choices: object) -> None:
    allowed = get_args(choices) or tuple(choices)  # type: ignore[arg-type]
    if value not in allowed:
        raise ValueError(f"{what} {value!r} is unknown: use one of {', '.join(map(str, allowed))}")


def _positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
