"""Samples in parquet shards, one a row, as the hub has them: columns `id`, `conversations` and `image` or `images`.

A picture is a struct of its bytes and a path, which is not followed. Parquet is read by groups of rows: a shuffle reads
a group for every sample, so groups should be small (the hub's, of pictures, have 100 rows).
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmamba.data.cache import stamp
from vlmamba.data.faults import BadSampleError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_COLUMNS = ("id", "conversations")
_PICTURES = ("image", "images")


class ParquetSource:
    """The rows of parquet shards. Raises ValueError naming a shard that cannot be used, ImportError without pyarrow."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = list(shards)
        self.stamp = stamp(self.shards)
        self.num_bytes = sum(shard.stat().st_size for shard in self.shards)
        groups = [(i, g, rows) for i, path in enumerate(self.shards) for g, rows in _groups(path)]
        self.groups = [(i, g) for i, g, _ in groups]
        # Of each group, over all shards, and of each shard: its first row.
        self.first = np.cumsum([0, *(rows for *_, rows in groups)])
        self.begin = {i: int(self.first[n]) for n, (i, g, _) in enumerate(groups) if g == 0}

    def __len__(self) -> int:
        return int(self.first[-1])

    def read(self, k: int) -> Any:
        path, group, row = self._find(k)
        table = _words(path, group)
        data = {name: table[name][row].as_py() for name in _COLUMNS if name in table.column_names}
        if isinstance(data.get("conversations"), str):
            try:
                data["conversations"] = json.loads(data["conversations"])
            except ValueError as error:
                raise BadSampleError("bad-json", f"{self.place(k)}: {error}") from None
        column = next((name for name in _PICTURES if name in table.column_names), None)
        shown = None if column is None else table[column][row].as_py()
        count = len(shown) if isinstance(shown, list) else int(shown is not None)
        data["image"] = [f"{self.place(k)}#{n}" for n in range(count)]
        return data

    def place(self, k: int) -> str:
        shard, _ = self.groups[self._group(k)]
        return f"{self.shards[shard]}:{k - self.begin[shard] + 1}"

    def picture(self, k: int, name: str) -> bytes:
        path, group, row = self._find(k)
        shown = _pictures(path, group)[row].as_py()
        picture = shown[int(name.rsplit("#", 1)[1])] if isinstance(shown, list) else shown
        data = picture.get("bytes") if isinstance(picture, dict) else picture
        if not isinstance(data, bytes):
            raise BadSampleError("missing", f"{name} has no bytes")
        return data

    def _group(self, k: int) -> int:
        return int(np.searchsorted(self.first, k, side="right")) - 1

    def _find(self, k: int) -> tuple[Path, int, int]:
        """The shard, the group of rows and the row in it of sample k."""
        group = self._group(k)
        shard, number = self.groups[group]
        return self.shards[shard], number, k - int(self.first[group])


def _groups(path: Path) -> list[tuple[int, int]]:
    """The groups of a shard and their numbers of rows."""
    file = _opened(path)
    missing = {"conversations"} - set(file.schema_arrow.names)
    if missing:
        raise ValueError(f"{path} has no column {missing.pop()!r}: {file.schema_arrow.names}")
    metadata = file.metadata
    return [(g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]


@lru_cache(maxsize=64)
def _words(path: Path, group: int) -> "pa.Table":
    """A group without its pictures' bytes: of those, whether they are there."""
    file = _opened(path)
    leaves = [file.schema.column(i).path for i in range(len(file.schema.names))]
    wanted = [leaf for leaf in leaves if leaf.split(".")[0] in _COLUMNS]
    shown = [leaf for leaf in leaves if leaf.split(".")[0] in _PICTURES]
    paths = [leaf for leaf in shown if leaf.endswith(".path")]
    return file.read_row_group(group, columns=wanted + (paths or shown))


@lru_cache(maxsize=8)
def _pictures(path: Path, group: int) -> "pa.ChunkedArray":
    """The pictures of a group."""
    file = _opened(path)
    column = next(name for name in _PICTURES if name in file.schema_arrow.names)
    return file.read_row_group(group, columns=[column])[column]


def _opened(path: Path) -> "pq.ParquetFile":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError("parquet shards need pyarrow: pip install 'vlmamba[train]'") from None
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from None
