"""Training checkpoints: whole or not there, checked on reading, and free of pickle.

A checkpoint is a directory `step-00000500` with safetensors files and a `manifest.json` that names each
file's SHA-256. It is written aside, flushed to the disk, and renamed. It holds what the stage changes: the
trained weights, the optimiser's moments, the step and the random state. Frozen weights are not copied; the
manifest keeps a fingerprint of them, so that resuming on another base is an error and not a silent mixture.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

log = logging.getLogger("vlmamba")
_FORMAT = "vlmamba-checkpoint-1"
_PARTIAL = ".partial-"
_SAME_SIZE_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    step: int  # optimiser steps done
    total_steps: int
    config: dict[str, Any]  # what the run was asked to do
    frozen: str  # fingerprint of the weights that were not trained
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps


def save(
    directory: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    total_steps: int,
    config: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes `directory/step-N` and removes all but the newest `keep`; returns its path.

    Raises OSError when the disk is full or not writable; what was there before stays as it was.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{step:08d}"
    aside = directory / f"{_PARTIAL}{path.name}"
    for left in directory.glob(f"{_PARTIAL}*"):  # of a run that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir()
    try:
        files = {
            "weights.safetensors": trained_weights(model),
            "optimizer.safetensors": _optimizer_tensors(model, optimizer),
            "rng.safetensors": _random_state(),
        }
        for name, tensors in files.items():
            save_file({k: v.detach().contiguous() for k, v in tensors.items()}, aside / name)
        manifest = {
            "format": _FORMAT,
            "step": step,
            "total_steps": total_steps,
            "frozen": frozen_fingerprint(model),
            "config": dict(config),
            "files": {name: _sha256(aside / name) for name in files},
        }
        manifest["checksum"] = _manifest_checksum(manifest)
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for file in (*aside.iterdir(), aside):
            _flush(file)
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)
        _flush(directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for old in _newest_first(directory)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None when there is none at all.

    Damaged ones are passed over, said aloud. Raises ValueError when every one is damaged.
    """
    damaged = []
    for path in _newest_first(directory):
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
    into = trained_weights(model)
    if set(into) != set(checkpoint.weights):
        differing = sorted(set(into) ^ set(checkpoint.weights))[:3]
        raise ValueError(f"{checkpoint.path} is of another model: they differ in {differing}")
    for name, tensor in into.items():
        saved = checkpoint.weights[name]
        if saved.shape != tensor.shape:
            raise ValueError(
                f"{checkpoint.path}: {name} is {tuple(saved.shape)}, the model has {tuple(tensor.shape)}"
            )
        tensor.detach().copy_(saved)


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Puts model, optimiser and random state where the checkpoint left them.

    Raises ValueError when the checkpoint was made of another model or over other frozen weights.
    """
    if checkpoint.frozen != frozen_fingerprint(model):
        raise ValueError(
            f"{checkpoint.path} was trained over other frozen weights than this model's: "
            "resume with the base it was started from"
        )
    restore_weights(model, checkpoint)
    parameters = dict(_optimized(model, optimizer))
    for key, value in checkpoint.optimizer.items():
        kind, name = key.split(".", 1)
        optimizer.state[parameters[name]][kind] = value.to(parameters[name].device)
    torch.set_rng_state(checkpoint.rng["cpu"])
    if "cuda" in checkpoint.rng and torch.cuda.is_available():
        torch.cuda.set_rng_state(checkpoint.rng["cuda"])


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


def _optimized(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[tuple[str, nn.Parameter]]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [(name, p) for name, p in model.named_parameters() if id(p) in held]


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `exp_avg.<parameter>`, `exp_avg_sq.<parameter>`, `step.<parameter>`."""
    return {
        f"{key}.{name}": value
        for name, parameter in _optimized(model, optimizer)
        for key, value in optimizer.state[parameter].items()
    }


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _read(path: Path) -> Checkpoint:
    manifest = json.loads((path / "manifest.json").read_text())
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ValueError(f"manifest.json is not of format {_FORMAT}")
    if manifest.pop("checksum", None) != _manifest_checksum(manifest):
        raise ValueError("manifest.json does not have its checksum")
    for name, digest in manifest["files"].items():
        if _sha256(path / name) != digest:
            raise ValueError(f"{name} does not have its checksum")
    return Checkpoint(
        path, manifest["step"], manifest["total_steps"], manifest["config"], manifest["frozen"],
        load_file(path / "weights.safetensors"),
        load_file(path / "optimizer.safetensors"),
        load_file(path / "rng.safetensors"),
    )  # fmt: skip


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"), reverse=True) if directory.is_dir() else []


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Forces a file's or directory's contents to the disk, so that the rename cannot outlive them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
