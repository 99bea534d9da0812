"""Model directories: what transformers' `save_pretrained` writes, read strictly.

config.json, model.safetensors (or shards with an index), processor and tokenizer files, generation_config.json.
Every tensor of the model must be there, used, finite and of the right shape; a broken directory is one clear line.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vlmamba.config import ModelConfig
from vlmamba.model import VLMamba
from vlmamba.processing import Processor, read_json
from vlmamba.weight_files import (
    MAX_SHARD,
    PICKLE,
    PICKLE_INDEX,
    SAFETENSORS,
    SAFETENSORS_INDEX,
    SHARDS,
    CheckpointError,
    check_finite,
    open_weights,
    some,
    write_shards,
)

__all__ = ["CheckpointError", "load_model", "save_model"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_OWN_PARTS = {
    "text_config": ("mamba",),
    "vision_config": ("siglip_vision_model", "clip_vision_model"),
}
_TIED_HEAD = "lm_head.weight"


def load_model(
    source: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
) -> tuple[VLMamba, Processor]:
    """A model directory or hub id -> the model in eval mode, and its processor.

    `dtype` None: float32 on the CPU, the stored type elsewhere.
    Raises FileNotFoundError for what is missing, CheckpointError for what is broken, and for a model whose tower
    or language model only transformers has.
    """
    device, dtype = torch.device(device), _as_dtype(dtype)
    directory = find_directory(source)
    try:
        settings = read_json(directory / "config.json")
        _check_is_ours(settings)
        return _load_ours(directory, settings, device, dtype)
    except ValueError as error:
        text = str(error)
        raise CheckpointError(text if str(directory) in text else f"{directory}: {text}") from None


def save_model(
    directory: str | Path,
    model: VLMamba,
    processor: Processor,
    generation: Mapping[str, Any] | None = None,
    storage_dtype: torch.dtype | str | None = None,
    max_shard: int = MAX_SHARD,
) -> None:
    """Writes a model directory that `load_model` and transformers read.

    Everything is written aside and moved into place when it is whole: a new directory appears at once; in an
    existing one each file is replaced whole, config.json last, and other files stay. `storage_dtype`: what the
    weights are stored as, None for what they are. `generation`: further keys of generation_config.json.
    Weights of more than `max_shard` bytes become several files with an index.
    Raises CheckpointError for weights that are not finite, also when only the stored type makes them so.
    """
    directory = Path(directory).resolve()
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file: name a directory to save the model in")
    weights = _to_store(model)
    storage_dtype = _as_dtype(storage_dtype)
    sizes = {n: t.numel() * (storage_dtype or t.dtype).itemsize for n, t in weights.items()}
    # Always on the file system it is moved on: an existing directory may be a mounted one.
    aside = f".{directory.name}.partial-{os.getpid()}"
    partial = directory / aside if directory.is_dir() else directory.with_name(aside)
    partial.mkdir(parents=True)
    try:
        write_shards(
            partial, sizes, lambda name: _stored(name, weights[name], storage_dtype), max_shard
        )
        processor.save(partial)
        defaults = {
            "eos_token_id": model.config.eos_token_id,
            "pad_token_id": model.config.pad_token_id,
        }
        _write_json(partial / "generation_config.json", defaults | dict(generation or {}))
        stored = str(storage_dtype or model.dtype).removeprefix("torch.")
        _write_json(partial / "config.json", model.config.to_dict() | {"dtype": stored})
        _move_into_place(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def find_directory(source: str | Path) -> Path:
    """A local directory as it is; a hub id, downloaded. Raises FileNotFoundError when it is neither."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"{path} is a file: name the model's directory")
    if not _HUB_ID.fullmatch(str(source)):
        raise FileNotFoundError(
            f"{source}: no such model directory (a model on the hub is written OWNER/NAME)"
        )
    from huggingface_hub import snapshot_download  # takes longer to import than a model to load

    try:
        found = snapshot_download(
            str(source), allow_patterns=["*.json", "*.jinja", "*.safetensors", PICKLE]
        )
    except Exception as error:  # offline, private, misspelt: each has an exception of its own
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{source} is neither a directory here nor a model that the hub gives: {reason}"
        ) from None
    return Path(found)


def empty_model(config: ModelConfig) -> VLMamba:
    """A model whose parameters are allocated and nothing more: `assign_weights` must follow.

    As fast as the meta device should be; the first use of that one imports torch's compiler.
    """
    with _NoInitialisation():
        return VLMamba(config)


def assign_weights(
    model: VLMamba,
    tensors: Mapping[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    """Makes `tensors` the model's parameters, on `device` and of `dtype`.

    Raises CheckpointError when a tensor is missing, unused, of another shape, not of floats or not finite.
    """
    expected = model.state_dict()
    if model.config.text.tie_embeddings:
        del expected[_TIED_HEAD]
    missing, extra = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing:
        raise CheckpointError(f"the weights lack {some(missing)}: the model needs it")
    if extra:
        raise CheckpointError(f"the weights hold {some(extra)}, which the model has no place for")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"the weight {name} has shape {tuple(tensor.shape)}, the model needs {tuple(expected[name].shape)}"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(f"the weight {name} is of {tensor.dtype}, expected floats")
    ready = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
    for name, tensor in ready.items():
        check_finite(name, tensor)
    if model.config.text.tie_embeddings:
        model.load_state_dict(ready, strict=False, assign=True)
        model.lm_head.weight = model.model.language_model.embeddings.weight
    else:
        model.load_state_dict(ready, assign=True)


class _NoInitialisation(TorchFunctionMode):
    """Leaves out every in-place function, and so the filling of new parameters."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if name.endswith("_") and not name.endswith("__"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _check_is_ours(settings: Mapping[str, Any]) -> None:
    """Points to transformers where a part of the model is one of theirs: those have no `State` to ask from."""
    for key, ours in _OWN_PARTS.items():
        part = settings.get(key)
        kind = part.get("model_type") if isinstance(part, Mapping) else None
        if settings.get("model_type") == "vlmamba" and kind is not None and kind not in ours:
            raise CheckpointError(
                f"its {key} is a {kind!r} of transformers: import vlmamba.integrations.transformers "
                "and load it with AutoModelForImageTextToText"
            )


def _load_ours(
    directory: Path, settings: Mapping[str, Any], device: torch.device, dtype: torch.dtype | None
) -> tuple[VLMamba, Processor]:
    config = _read_config(settings)
    processor = Processor.load(directory)
    _check_processor(processor, config)
    tensors = dict(open_weights(directory).items())
    if dtype is None and device.type == "cpu":
        dtype = torch.float32
    elif dtype is None:
        dtype = reduce(torch.promote_types, {tensor.dtype for tensor in tensors.values()})
    model = empty_model(config)
    assign_weights(model, tensors, device, dtype)
    return model.eval(), processor


def _read_config(settings: Mapping[str, Any]) -> ModelConfig:
    try:
        return ModelConfig.from_dict(settings)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"config.json cannot be used: {error}") from None


def _check_processor(processor: Processor, config: ModelConfig) -> None:
    pairs = {
        "image size": (processor.image.image_size, config.vision.image_size),
        "number of patches": (processor.num_patches, config.vision.num_patches),
        "image token": (processor.image_token_id, config.image_token_id),
        "eos token": (processor.eos_token_id, config.eos_token_id),
        "pad token": (processor.pad_token_id, config.pad_token_id),
    }
    for what, (of_processor, of_model) in pairs.items():
        if of_processor != of_model:
            raise CheckpointError(
                f"the processor's {what} is {of_processor}, the model's {of_model}: they must agree"
            )
    if processor.tokenizer.get_vocab_size() > config.text.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {processor.tokenizer.get_vocab_size()} tokens, "
            f"the model {config.text.vocab_size}"
        )


def _to_store(model: VLMamba) -> dict[str, Tensor]:
    """The tensors of a model directory: the tied head is the table of embeddings, stored once."""
    tied = model.config.text.tie_embeddings
    return {n: t for n, t in model.state_dict().items() if not (tied and n == _TIED_HEAD)}


def _stored(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    stored = tensor.detach().to("cpu", dtype)
    if not stored.isfinite().all():
        which = "is not finite" if not tensor.isfinite().all() else f"does not fit into {dtype}"
        raise CheckpointError(f"the weight {name} {which}: the model was not saved")
    return stored


def _move_into_place(partial: Path, directory: Path) -> None:
    if not directory.exists():
        partial.rename(directory)
        return
    # Without its configuration the directory is no model, so a crash from here on cannot leave a mixture.
    weights = (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX, SHARDS)
    for pattern in ("config.json", *weights):
        for stale in directory.glob(pattern):
            stale.unlink()
    for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
        file.replace(directory / file.name)


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    named = getattr(torch, dtype, None)
    if not isinstance(named, torch.dtype) or not named.is_floating_point:
        raise ValueError(f"dtype {dtype!r} is unknown: use float32, bfloat16 or float16")
    return named


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
