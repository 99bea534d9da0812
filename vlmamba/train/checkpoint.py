"""Training checkpoints: whole or not there, checked on reading, and free of pickle.

A checkpoint is a directory `step-00000500` with safetensors files and a `manifest.json` that names each
file's SHA-256. It holds what the stage changes: the trained weights, the optimiser's moments, the step and the
random state, and the running average of the weights where there is one. Frozen weights are not copied; the manifest
keeps a fingerprint of them, so that resuming on another base is an error and not a silent mixture.

Every tensor is whole in exactly one file, whichever process wrote it and however many there were, so any number of
processes can go on from it. `train/saver.py` writes them.
"""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint import (
    HuggingFaceStorageReader,  # pyright: ignore[reportPrivateImportUsage]
    load,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

log = logging.getLogger("vlmamba")
FORMAT = "vlmamba-checkpoint-2"
KINDS = ("weights", "optimizer", "rng")
PARTIAL = ".partial-"
_SAME_SIZE_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Stored(Mapping[str, Tensor]):
    """Tensors by name in safetensors files, each read when it is asked for."""

    def __init__(self, files: list[Path]) -> None:
        self._where: dict[str, Path] = {}
        for file in files:
            with safe_open(file, "pt") as opened:
                self._where |= dict.fromkeys(opened.keys(), file)

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._where[name], "pt") as opened:
            return opened.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def read(self, room: Callable[[str, torch.Size, torch.dtype], Tensor]) -> Mapping[str, Tensor]:
        """Every tensor, in the `room` made for its name, shape and dtype; every process calls this alike.

        Where that is divided over the processes, each reads its own part alone (torch.distributed.checkpoint).
        """
        (directory,) = {str(file.parent) for file in self._where.values()}
        reader = HuggingFaceStorageReader(directory)
        tensors = {
            name: room(name, found.size, found.properties.dtype)
            for name, found in reader.read_metadata().state_dict_metadata.items()
            if name in self._where and isinstance(found, TensorStorageMetadata)
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # alone
            load(dict(tensors), storage_reader=reader)
        return tensors


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest was read."""

    path: Path
    step: int  # optimiser steps done
    total_steps: int
    config: dict[str, Any]  # what the run was asked to do
    frozen: str  # fingerprint of the weights that were not trained
    files: tuple[str, ...]
    unreadable: int = 0  # samples that could not be read

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps

    @property
    def weights(self) -> Stored:
        return self._stored("weights")

    @property
    def optimizer(self) -> Stored:
        """`exp_avg.<parameter>`, `exp_avg_sq.<parameter>`, `step.<parameter>`."""
        return self._stored("optimizer")

    @property
    def rng(self) -> Stored:
        """`cpu.<rank>` and `cuda.<rank>` of every process."""
        return self._stored("rng")

    @property
    def average(self) -> Stored:
        """The running average of the trained weights; empty where the stage keeps none."""
        return self._stored("average")

    def _stored(self, kind: str) -> Stored:
        return Stored([self.path / name for name in self.files if name.startswith(f"{kind}-")])


def load_newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None when there is none at all.

    Damaged ones are passed over, said aloud. Raises ValueError when every one is damaged.
    """
    damaged = []
    for path in newest_first(directory):
        try:
            checkpoint = _read(path)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            log.warning("checkpoint %s is damaged (%s): trying the one before it", path, error)
            damaged.append(path)
            continue
        if damaged:
            log.warning("going on from checkpoint %s, the newest whole one", path)
        return checkpoint
    if damaged:
        raise ValueError(
            f"every checkpoint in {directory} is damaged: start again without --resume"
        )
    return None


def restore_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copies the checkpoint's weights into the model; raises ValueError unless they are exactly its trained ones."""
    into, stored = trained_weights(model), checkpoint.weights
    if set(into) != set(stored):
        differing = sorted(set(into) ^ set(stored))[:3]
        raise ValueError(f"{checkpoint.path} is of another model: they differ in {differing}")
    for name, tensor in into.items():
        saved = stored[name]
        if saved.shape != tensor.shape:
            raise ValueError(
                f"{checkpoint.path}: {name} is {tuple(saved.shape)}, the model has {tuple(tensor.shape)}"
            )
        tensor.detach().copy_(saved)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """What a stage may change, by name: trained parameters (tied ones once) and persistent buffers."""
    persistent = model.state_dict().keys()
    weights: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return weights | {n: b for n, b in model.named_buffers() if n in persistent}


def frozen_fingerprint(model: nn.Module) -> str:
    """A hash of every frozen parameter's name, shape and bits.

    Bits are summed as integers, all of them and every seventh: exact in any order, so the same on every
    device, at the price of a pass over memory.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            bits = parameter.detach().contiguous().view(-1).view(
                _SAME_SIZE_INTEGER[parameter.element_size()]
            )  # fmt: skip
            total = int(bits.sum(dtype=torch.int64))
            strided = int(bits[::7].sum(dtype=torch.int64))
            digest.update(f"{name} {tuple(parameter.shape)} {total} {strided}\n".encode())
    return digest.hexdigest()


def random_state(rank: int) -> dict[str, Tensor]:
    """This process's random state, as the files keep it."""
    state = {f"cpu.{rank}": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state[f"cuda.{rank}"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(checkpoint: Checkpoint, rank: int, seed: int) -> None:
    """As this process left it; a process that did not exist then begins from seed, rank and step."""
    stored = checkpoint.rng
    if f"cpu.{rank}" not in stored:
        torch.manual_seed(hash((seed, rank, checkpoint.step)))
        return
    torch.set_rng_state(stored[f"cpu.{rank}"])
    if f"cuda.{rank}" in stored and torch.cuda.is_available():
        torch.cuda.set_rng_state(stored[f"cuda.{rank}"])


def write_manifest(aside: Path, manifest: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Completes the files in `aside`, whose SHA-256 are given, to a checkpoint."""
    whole = {"format": FORMAT, **manifest, "files": dict(digests)}
    whole["checksum"] = _manifest_checksum(whole)
    (aside / "manifest.json").write_text(json.dumps(whole, indent=1))
    flush(aside / "manifest.json")
    flush(aside)


def put_in_place(aside: Path, path: Path, keep: int) -> None:
    """Renames a complete checkpoint to its name, and removes all but the newest `keep` of the directory."""
    if path.exists():
        shutil.rmtree(path)
    aside.rename(path)
    flush(path.parent)
    for old in newest_first(path.parent)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"), reverse=True) if directory.is_dir() else []


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Forces a file's or directory's contents to the disk, so that the rename cannot outlive them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> Checkpoint:
    manifest = json.loads((path / "manifest.json").read_text())
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"manifest.json is not of format {FORMAT}")
    if manifest.pop("checksum", None) != _manifest_checksum(manifest):
        raise ValueError("manifest.json does not have its checksum")
    for name, digest in manifest["files"].items():
        if sha256(path / name) != digest:
            raise ValueError(f"{name} does not have its checksum")
    return Checkpoint(
        path, manifest["step"], manifest["total_steps"], manifest["config"], manifest["frozen"],
        tuple(manifest["files"]), manifest.get("unreadable", 0),
    )  # fmt: skip


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
