"""A published checkpoint's configuration, in this package's terms and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vlmamba.config import (
    ConnectorConfig,
    MambaConfig,
    VisionConfig,
    text_from_dict,
    vision_from_dict,
)
from vlmamba.exchange.layouts import (
    COBRA_MLP,
    CONNECTOR,
    LANGUAGE,
    LLAVA_CONNECTOR,
    STATE_SPACES,
    TOWERS,
    TRANSFORMERS_MAMBA,
    VLMAMBA,
)
from vlmamba.exchange.sources import Checkpoint
from vlmamba.processing import ImageSettings, image_settings, read_json
from vlmamba.weight_files import CheckpointError

# ssm_cfg of state-spaces/mamba: arguments of its `Mamba`, with the defaults there.
_SSM_DEFAULTS = {
    "d_state": 16,
    "d_conv": 4,
    "expand": 2,
    "dt_rank": "auto",
    "bias": False,
    "conv_bias": True,
}
_SSM_START = {
    "dt_min",
    "dt_max",
    "dt_init",
    "dt_scale",
    "dt_init_floor",
    "use_fast_path",
}  # of no weight
FEATURE_LAYER = -2


def language_config(checkpoint: Checkpoint) -> MambaConfig | None:
    """The language model in a checkpoint, None without one. Raises CheckpointError for one of another kind."""
    try:
        if checkpoint.layout is VLMAMBA:
            text = checkpoint.settings.get("text_config")
            return text and text_from_dict(
                text, checkpoint.settings.get("tie_word_embeddings", True)
            )
        if checkpoint.layout is TRANSFORMERS_MAMBA:
            tied = checkpoint.settings.get("tie_word_embeddings", True)
            return text_from_dict(checkpoint.settings, tied)
        if checkpoint.layout is STATE_SPACES and checkpoint.settings:
            return _from_state_spaces(checkpoint.settings)
        return _from_tensors(checkpoint)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint.label}: its config.json cannot be used: {error}"
        ) from None


def vision_config(checkpoint: Checkpoint) -> VisionConfig | None:
    """The vision tower in a checkpoint, up to LLaVA's feature layer; None without one."""
    settings = checkpoint.settings
    try:
        if checkpoint.layout is VLMAMBA and "vision_config" in settings:
            return vision_from_dict(
                settings["vision_config"], settings.get("vision_feature_layer", FEATURE_LAYER)
            )
        kind = str(settings.get("model_type", ""))
        if checkpoint.layout is TOWERS and not kind:
            raise ValueError("it is missing, and it alone says how the tower is built")
        if kind in ("clip", "siglip"):  # tower and text model in one
            return vision_from_dict(
                {"model_type": f"{kind}_vision_model"} | settings.get("vision_config", {}),
                FEATURE_LAYER,
            )
        return vision_from_dict(settings, FEATURE_LAYER) if "vision_model" in kind else None
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint.label}: its config.json cannot be used: {error}"
        ) from None


def connector_config(checkpoint: Checkpoint, wanted: ConnectorConfig) -> ConnectorConfig | None:
    """The connector in a checkpoint, None without one. A file of ours does not say which: then it is `wanted`."""
    if checkpoint.layout in (LLAVA_CONNECTOR, COBRA_MLP):
        return ConnectorConfig(kind="mlp")
    if not any(
        (checkpoint.layout.place(name) or "").startswith(CONNECTOR) for name in checkpoint.weights
    ):
        return None
    settings = checkpoint.settings.get("connector_config")
    return wanted if settings is None else ConnectorConfig(**settings)


def picture_settings(checkpoint: Checkpoint, vision: VisionConfig) -> ImageSettings:
    """How the tower's pictures were normalised: by its preprocessor_config.json, or as its layout always does.

    The aspect stays LLaVA's: padded to a square. Raises CheckpointError for what cannot be used.
    """
    default = ImageSettings.for_tower(vision)
    file = checkpoint.directory / "preprocessor_config.json"
    if not file.is_file():
        return default
    data = {"size": {"height": vision.image_size}, "aspect": default.aspect}
    data |= {"image_mean": default.mean, "image_std": default.std, "resample": 3}  # bicubic
    published = read_json(file)
    data |= {k: published[k] for k in ("image_mean", "image_std", "resample") if k in published}
    try:
        return image_settings(data)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be used: {error}") from None


def to_state_spaces(config: MambaConfig) -> dict[str, Any]:
    """The eight keys of state-spaces/mamba's config.json (mamba_ssm/models/config_mamba.py).

    Raises ValueError for what they cannot say.
    """
    if config.norm_epsilon != 1e-5:
        raise ValueError(
            f"the layout of state-spaces has norms of epsilon 1e-5 only, this model's is {config.norm_epsilon}"
        )
    ssm = {name: getattr(config, name) for name in _SSM_DEFAULTS}
    ssm["dt_rank"] = config.dt_rank or "auto"
    data: dict[str, Any] = {
        "d_model": config.d_model,
        "n_layer": config.n_layer,
        "vocab_size": config.vocab_size,
        "ssm_cfg": {name: value for name, value in ssm.items() if value != _SSM_DEFAULTS[name]},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8 if config.vocab_size % 8 == 0 else 1,
    }
    return data if config.tie_embeddings else data | {"tie_embeddings": False}


def _from_state_spaces(data: Mapping[str, Any]) -> MambaConfig:
    ssm = dict(data.get("ssm_cfg") or {})
    layer = ssm.pop("layer", "Mamba1")
    if layer != "Mamba1":
        raise ValueError(f"it is a {layer}: only Mamba-1 exists here")
    if data.get("attn_layer_idx") or data.get("d_intermediate"):
        raise ValueError("it has attention or MLP layers, which do not exist here")
    if not data.get("rms_norm", True):
        raise ValueError("rms_norm is false: only models with RMSNorm exist here")
    unknown = sorted(ssm.keys() - _SSM_DEFAULTS.keys() - _SSM_START)
    if unknown:
        raise ValueError(f"ssm_cfg has unknown keys {unknown}")
    values = {name: ssm[name] for name in _SSM_DEFAULTS if name in ssm}
    if values.get("dt_rank") == "auto":
        values["dt_rank"] = None
    multiple = data.get("pad_vocab_size_multiple", 8)
    rows = -(-data.get("vocab_size", 50277) // multiple) * multiple  # whole tiles of the table
    tied = data.get("tie_embeddings", True)
    return MambaConfig(data["d_model"], data["n_layer"], rows, **values, tie_embeddings=tied)


def _from_tensors(checkpoint: Checkpoint) -> MambaConfig | None:
    """What the tensors alone say of a language model; None when there is none among them."""
    ours = {checkpoint.layout.place(name): name for name in checkpoint.weights}

    def shape(name: str) -> tuple[int, ...]:
        return tuple(checkpoint.weights[ours[LANGUAGE + name]].shape)

    if f"{LANGUAGE}layers.0.mixer.A_log" not in ours:
        return None
    rows, d_model = shape("embeddings.weight")
    d_inner, d_state = shape("layers.0.mixer.A_log")
    layers = {name.split(".")[3] for name in ours if name and name.startswith(f"{LANGUAGE}layers.")}
    head = ours.get("lm_head.weight")
    table = checkpoint.weights[ours[f"{LANGUAGE}embeddings.weight"]]
    return MambaConfig(
        d_model=d_model,
        n_layer=len(layers),
        vocab_size=rows,
        d_state=d_state,
        d_conv=shape("layers.0.mixer.conv1d.weight")[-1],
        expand=d_inner // d_model,
        dt_rank=_unless_auto(shape("layers.0.mixer.dt_proj.weight")[1], d_model),
        bias=f"{LANGUAGE}layers.0.mixer.in_proj.bias" in ours,
        conv_bias=f"{LANGUAGE}layers.0.mixer.conv1d.bias" in ours,
        tie_embeddings=head is None or same(checkpoint.weights[head], table),
    )


def _unless_auto(dt_rank: int, d_model: int) -> int | None:
    return None if dt_rank == -(-d_model // 16) else dt_rank


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers; the same memory is not read."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a.data_ptr() == b.data_ptr() or bool((a == b).all())
