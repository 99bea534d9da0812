"""Where a checkpoint is: a directory, a file, or a hub id, which may go on to a file inside."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmamba.exchange.layouts import Layout, recognise
from vlmamba.processing import read_json
from vlmamba.weight_files import PICKLE, PICKLE_INDEX, CheckpointError, Weights, open_weights

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w./+-]+))?")
# Cobra's run; LLaVA's first stage, and what its LoRA leaves beside the adapter
_OTHER_WEIGHTS = ("checkpoints/latest-checkpoint.pt", "mm_projector.bin", "non_lora_trainables.bin")
_SMALL_FILES = ["*.json", "*.jinja", "*.txt"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, opened and recognised; its tensors are read when they are needed.

    label: what the user called it; path: its directory or file; settings: its config.json, empty without one.
    """

    label: str
    path: Path
    layout: Layout
    settings: Mapping[str, Any]
    weights: Weights = field(repr=False)

    @property
    def directory(self) -> Path:
        """Where its other files are."""
        return self.path if self.path.is_dir() else self.path.parent


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Opens what `source` names. Nothing in it is executed, pickles included.

    Raises FileNotFoundError for what is not there, CheckpointError for what cannot be read.
    """
    path = locate(source)
    directory = path if path.is_dir() else path.parent
    config = directory / "config.json"
    settings = read_json(config) if config.is_file() else {}
    weights = open_weights(_weights_in(path))
    try:
        layout = recognise(weights, settings)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from None
    return Checkpoint(str(source), path, layout, settings, weights)


def locate(source: str | Path, weights: bool = True) -> Path:
    """A local path as it is; a hub id, or a file in one (OWNER/NAME/FILE), downloaded.

    weights: whether they are wanted, or only what stands beside them: the tokenizer of 20 billion parameters is small.
    Raises FileNotFoundError when it is neither, or the hub does not give it.
    """
    path = Path(source)
    if path.exists():
        return path
    match = _HUB_ID.fullmatch(str(source))
    if not match:
        raise FileNotFoundError(
            f"{source}: no such file or directory (a model on the hub is written OWNER/NAME)"
        )
    try:
        return _download(match[1], match[2], weights)
    except Exception as error:  # offline, private, misspelt: each has an exception of its own
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{source} is neither here nor does the hub give it: {reason}"
        ) from None


def _download(repository: str, file: str | None, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    if file is not None:
        beside = f"{Path(file).parent.as_posix()}/*.json".removeprefix("./")
        found = Path(snapshot_download(repository, allow_patterns=[file, f"{file}/*", beside]))
        if not (found / file).exists():
            raise FileNotFoundError(f"{repository} has no {file}")
        return found / file
    if not weights:
        return Path(snapshot_download(repository, allow_patterns=_SMALL_FILES))
    found = Path(
        snapshot_download(repository, allow_patterns=[*_SMALL_FILES, "model*.safetensors"])
    )
    if not any(found.glob("*.safetensors")):  # most repositories hold the same weights twice
        pickles = [PICKLE, PICKLE_INDEX, "pytorch_model-*.bin"]
        found = Path(snapshot_download(repository, allow_patterns=[*_SMALL_FILES, *pickles]))
    return found


def _weights_in(path: Path) -> Path:
    """The file of weights in the directories that other trainers leave behind; else the path itself."""
    for name in _OTHER_WEIGHTS:
        if path.is_dir() and (path / name).is_file():
            return path / name
    return path
