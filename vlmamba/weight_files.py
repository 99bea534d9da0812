"""Weights in files: read a tensor at a time and written in shards, so that no model is ever held twice.

Safetensors, one file or shards with an index, and pickles of plain tensors, whose code is never run.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlmamba.processing import read_json

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
SHARDS = "model-*-of-*.safetensors"
MAX_SHARD = 5 * 10**9  # bytes, as transformers splits them


class CheckpointError(ValueError):
    """Weights or a model directory that cannot be used; the message is one line that names what is wrong."""


class _File(Protocol):
    path: Path

    def names(self) -> Iterable[str]: ...

    def read(self, name: str) -> Tensor: ...


class Weights(Mapping[str, Tensor]):
    """name -> tensor on the CPU. A tensor is a view of its file: its bytes are read when it is used."""

    def __init__(self, places: Mapping[str, _File]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> Tensor:
        return self._places[name].read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


def open_weights(path: Path) -> Weights:
    """The weights of a directory, or of one file.

    Raises FileNotFoundError for a missing file and CheckpointError for a broken one.
    """
    if path.is_dir():
        for name in (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX):
            if (path / name).is_file():
                return open_weights(path / name)
        raise FileNotFoundError(f"{path} holds no weights: {SAFETENSORS} is missing")
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    file = _open_file(path)
    return Weights(dict.fromkeys(file.names(), file))


def write_shards(
    directory: Path,
    sizes: Mapping[str, int],
    read: Callable[[str], Tensor],
    max_shard: int = MAX_SHARD,
) -> None:
    """Writes model.safetensors, or shards with their index when all together exceed `max_shard` bytes.

    sizes: bytes of every tensor by name; read: gives one. Only the tensors of one shard are held at a time.
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > max_shard:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        _save(directory / SAFETENSORS, groups[0], read)
        return
    places = {}
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        _save(directory / file, names, read)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
    (directory / SAFETENSORS_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what libraries raise when a file cannot be written, each its own, into an OSError of one line."""
    try:
        yield
    except (SafetensorError, RuntimeError, OSError) as error:
        raise OSError(f"{path.name} could not be written ({error}): is the disk full?") from None


def some(names: Iterable[str]) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises CheckpointError when a number in the tensor is not finite."""
    # A sum is far cheaper than a look at every number, and never finite when one of them is not.
    if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
        raise CheckpointError(f"the weight {name} holds numbers that are not finite")


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self.path = path
        with _one_line(path):
            self._file = safe_open(path, "pt").__enter__()

    def names(self) -> Iterable[str]:
        return self._file.keys()

    def read(self, name: str) -> Tensor:
        with _one_line(self.path):
            return self._file.get_tensor(name)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns safetensors' errors into one line that says what to do."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): copy or download it again"
        ) from None


class _Pickle:
    """Tensors only: nothing else is unpickled, so no code of the file is run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
        except Exception:
            raise CheckpointError(
                f"{path} is not a plain file of weights: it is broken, or holds objects that could run code"
            ) from None
        self._tensors = dict(_flattened(data, path))

    def names(self) -> Iterable[str]:
        return self._tensors

    def read(self, name: str) -> Tensor:
        return self._tensors[name]


def _flattened(data: Any, path: Path, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Mappings inside mappings, as trainers save them, by dotted names."""
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a plain mapping from names to tensors")
    for name, value in data.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        else:
            yield from _flattened(value, path, f"{prefix}{name}.")


def _open_file(path: Path) -> _File:
    return _Safetensors(path) if path.suffix == ".safetensors" else _Pickle(path)


def _open_shards(index: Path) -> Weights:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files")
    found: dict[str, _File] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}: shards lie beside their index")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index.parent / name} is missing: the index names it")
        shard = _open_file(index.parent / name)
        for tensor in shard.names():
            if places.get(tensor) != name:
                raise CheckpointError(f"{index} does not place {tensor} in {name}, but it is there")
            found[tensor] = shard
    absent = places.keys() - found.keys()
    if absent:
        raise CheckpointError(f"{index} names {some(absent)}, but the shards lack it")
    return Weights(found)


def _save(path: Path, names: Iterable[str], read: Callable[[str], Tensor]) -> None:
    path.touch()
    mode = path.stat().st_mode
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensor = alone(read(name))
        twice = any(tensor.data_ptr() == other.data_ptr() for other in tensors.values())
        tensors[name] = tensor.clone() if twice else tensor
    with writing(path):
        save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(mode)  # safetensors makes it private


def alone(tensor: Tensor) -> Tensor:
    """Contiguous, and no view into a storage that others share: safetensors takes no other."""
    tensor = tensor.contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
