"""Samples in tar shards, as WebDataset lays them out: files of one name but for their endings make a sample.

`000123.json` is the sample in LLaVA's format, `000123.jpg`, or `000123.0.jpg` and so on, are its pictures, in the order
in which they stand. Python's own tarfile reads the shards' headers, once; after that a sample is found by its place, in
any order. The streaming readers of this format cannot do that, and a shuffle that resumes at a number needs it.
"""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmamba.data.cache import Tables, cached, stamp
from vlmamba.data.faults import BadSampleError
from vlmamba.data.processes import available_cores, spread

_PICTURES = ("jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "ppm", "avif")


class TarSource:
    """The samples of tar shards. Raises ValueError naming a shard that is not a whole tar file."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = list(shards)
        self.stamp = stamp(self.shards)
        self.num_bytes = sum(shard.stat().st_size for shard in self.shards)
        tables = cached("tar", self.stamp, self.num_bytes, self._tables)
        # (samples, 4): shard, offset and size of the .json (-1: there is none), first picture; (pictures, 2)
        self.samples, self.pictures = tables["samples"], tables["pictures"]

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, k: int) -> Any:
        shard, offset, size, first = self.samples[k].tolist()
        if offset < 0:
            raise BadSampleError("not-a-sample", f"{self.place(k)}: pictures without a .json file")
        try:
            data = json.loads(self._bytes(shard, offset, size))
        except (ValueError, RecursionError) as error:
            raise BadSampleError("bad-json", f"{self.place(k)}: {error}") from None
        end = self.samples[k + 1, 3] if k + 1 < len(self) else len(self.pictures)
        if isinstance(data, dict):
            data["image"] = [f"{self.shards[shard].name}#{n}" for n in range(first, end)]
        return data

    def place(self, k: int) -> str:
        shard, offset, *_ = self.samples[k].tolist()
        return f"{self.shards[shard]}:{max(offset, 0)}"

    def picture(self, k: int, name: str) -> bytes:
        offset, size = self.pictures[int(name.rsplit("#", 1)[1])].tolist()
        return self._bytes(int(self.samples[k, 0]), offset, size)

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        with self.shards[shard].open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _tables(self) -> Tables:
        samples, pictures = [], []
        processes = 1 if len(self.shards) < 8 else min(available_cores(), len(self.shards) // 2, 16)
        for shard, found in enumerate(spread(members, self.shards, processes)):
            for offset, size, shown in found:
                samples.append((shard, offset, size, len(pictures)))
                pictures += shown
        return {
            "samples": np.array(samples, dtype=np.int64).reshape(-1, 4),
            "pictures": np.array(pictures, dtype=np.int64).reshape(-1, 2),
        }


def members(shard: Path) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """The samples of a shard: offset and size of the .json file, and of every picture."""
    found: list[tuple[int, int, list[tuple[int, int]]]] = []
    before = None
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue] - it would keep them all
                folder, _, file = member.name.rpartition("/")
                name, _, ending = file.partition(".")
                ending = ending.rpartition(".")[2].lower()
                if not member.isfile() or not (ending == "json" or ending in _PICTURES):
                    continue
                if (folder, name) != before:
                    found.append((-1, 0, []))
                    before = folder, name
                if ending == "json":
                    found[-1] = (member.offset_data, member.size, found[-1][2])
                else:
                    found[-1][2].append((member.offset_data, member.size))
    except tarfile.TarError as error:
        raise ValueError(f"{shard} is not a whole tar file: {error}") from None
    return found
