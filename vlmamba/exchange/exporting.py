"""A model's parts -> the layouts of other projects."""

from pathlib import Path
from typing import Literal

import torch

from vlmamba.config import MambaConfig
from vlmamba.exchange.configs import (
    language_config,
    picture_settings,
    to_state_spaces,
    vision_config,
)
from vlmamba.exchange.gguf_file import write_gguf
from vlmamba.exchange.importing import language_shapes, tower_shapes
from vlmamba.exchange.layouts import HEAD, VLMAMBA
from vlmamba.exchange.plan import TABLE, Plan
from vlmamba.exchange.report import Report
from vlmamba.exchange.sources import Checkpoint, open_checkpoint
from vlmamba.exchange.standalone import (
    language_name,
    last_norm,
    tower_name,
    write_language_settings,
    write_tower_settings,
)
from vlmamba.exchange.store import Store
from vlmamba.exchange.tokens import copy_tokenizer, tokenizer_file
from vlmamba.exchange.writing import new_directory, new_file, write_json
from vlmamba.processing import Processor, read_tokenizer
from vlmamba.weight_files import PICKLE, CheckpointError, alone, writing

Format = Literal["transformers", "state-spaces", "gguf"]
Part = Literal["language", "vision"]


def export_model(
    source: str,
    output: Path,
    format: Format,
    part: Part = "language",
    *,
    dtype: torch.dtype | None = None,
    tokenizer: str | None = None,
    pickled: bool = True,
) -> Report:
    """Writes one part of a model, or of any checkpoint that can be imported, in another project's layout.

    dtype: stored type, None: each tensor's own. pickled: whether state-spaces' weights are a pytorch_model.bin,
    the only file that mamba_ssm reads, or safetensors. A GGUF is a file, the others are directories.

    Raises FileNotFoundError, FileExistsError or CheckpointError, in one line, and leaves nothing behind.
    """
    checkpoint = open_checkpoint(source)
    if part == "vision":
        if format != "transformers":
            raise CheckpointError(f"{format} has no layout for a vision tower: use transformers")
        return _export_tower(checkpoint, output, dtype)
    config = language_config(checkpoint)
    if config is None:
        raise CheckpointError(f"{source} holds no language model ({checkpoint.layout.name})")
    plan = Plan()
    plan.take(checkpoint, language_shapes(config), config.tie_embeddings)
    store = Store(plan, dtype)
    if format == "gguf":
        tokens = tokenizer_file(checkpoint, tokenizer)
        with new_file(output) as partial:
            ours = {language_name(name): name for name in plan.placed}
            shapes = {name: plan.placed[ours[name]].shape for name in ours}
            exact = Store(plan, None)  # A is narrowed after its exponential only
            write_gguf(
                partial, config, read_tokenizer(tokens), shapes, lambda n: exact.read(ours[n]),
                store.dtype,
            )  # fmt: skip
        return Report(f"{output}: a language model as GGUF ({_name(store.dtype)})", plan)
    with new_directory(output) as partial:
        if format == "transformers":
            store.write(partial, language_name)
            write_language_settings(partial, config, store.dtype)
            copy_tokenizer(tokenizer_file(checkpoint, tokenizer), partial)
        else:
            _write_state_spaces(partial, config, store, pickled)
    return Report(f"{output}: a language model in the layout of {format}", plan)


def _write_state_spaces(directory: Path, config: MambaConfig, store: Store, pickled: bool) -> None:
    """Tensors are named `embedding`, and the tied head is there as well: mamba_ssm loads strictly."""
    try:
        settings = to_state_spaces(config)
    except ValueError as error:
        raise CheckpointError(str(error)) from None

    def name(ours: str) -> str:
        return language_name(ours).replace("backbone.embeddings.", "backbone.embedding.")

    if pickled:
        tensors = {name(ours): alone(store.read(ours)) for ours in store.plan.placed}
        tensors.setdefault(HEAD, tensors[name(TABLE)])
        with writing(directory / PICKLE):
            torch.save(tensors, directory / PICKLE)
    else:
        store.write(directory, name, also={HEAD: TABLE} if config.tie_embeddings else None)
    write_json(directory / "config.json", settings)


def _export_tower(checkpoint: Checkpoint, output: Path, dtype: torch.dtype | None) -> Report:
    vision = vision_config(checkpoint)
    if vision is None:
        raise CheckpointError(
            f"{checkpoint.label} holds no vision tower ({checkpoint.layout.name})"
        )
    image = (
        Processor.load(checkpoint.directory).image
        if checkpoint.layout is VLMAMBA
        else picture_settings(checkpoint, vision)
    )
    plan = Plan()
    plan.take(checkpoint, tower_shapes(vision), tied=False)
    norm = last_norm(vision)
    plan.draw({name: tuple(tensor.shape) for name, tensor in norm.items()})
    store = Store(plan, dtype, norm)
    with new_directory(output) as partial:
        store.write(partial, tower_name)
        write_tower_settings(partial, vision, image, store.dtype)
    note = (
        "the tower ends at its feature layer: what the connector reads is hidden_states[-1]; "
        "post_layernorm is ones and zeros, and there is no pooling head"
    )
    return Report(f"{output}: a vision tower in the layout of transformers", plan, [note])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
