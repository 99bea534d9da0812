"""Picture packs: one `.npz` a set, encoded pictures end to end in `blob`, cut by `off`, described by `meta`.

Beside them stand `y` (class index), `box`, or `i` (row into a list of `meta`). No file holds pickled objects.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmamba.data.made import in_pieces
from vlmamba.processing import ImageSettings, square


@dataclass(frozen=True)
class Pack:
    """An opened pack: pictures by index, its arrays, its description."""

    name: str
    blob: bytes
    offsets: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def encoded(self, k: int) -> bytes:
        return self.blob[self.offsets[k] : self.offsets[k + 1]]

    def picture(self, k: int) -> Image.Image:
        return Image.open(io.BytesIO(self.encoded(k)))

    @property
    def classes(self) -> list[str]:
        """Class names as the set gives them; Tiny-ImageNet's WordNet names are shortened to their first."""
        if "classes" in self.meta:
            return list(self.meta["classes"])
        return [name.split(",")[0] for name in self.meta["names"]]


def open_pack(path: str | Path) -> Pack:
    """Reads a pack; raises ValueError when the file is not one."""
    path = Path(path)
    try:
        with np.load(path) as file:
            arrays = {key: file[key] for key in file.files}
        blob, meta = arrays.pop("blob").tobytes(), json.loads(arrays.pop("meta").tobytes())
        return Pack(path.stem, blob, arrays.pop("off"), arrays, meta)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a picture pack: {error}") from None


def find_packs(directory: str | Path) -> dict[str, Path]:
    """The packs of a directory by name."""
    return {path.stem: path for path in sorted(Path(directory).glob("*.npz"))}


def square_pixels(pack: Pack, size: int) -> NDArray[np.uint8]:
    """Every picture made square as the mini's processor does: (n, size, size, 3).

    Decoded by one process a core.
    """
    encoded = [pack.encoded(k) for k in range(len(pack))]
    return np.concatenate(in_pieces(_Squares(size), encoded, 256))


@dataclass(frozen=True)
class _Squares:
    """Encoded pictures as one array; a class, because processes need what they can name."""

    size: int

    def __call__(self, encoded: Sequence[bytes]) -> NDArray[np.uint8]:
        return np.stack([_decode_square(data, self.size) for data in encoded])


def _decode_square(data: bytes, size: int) -> NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(square(picture, ImageSettings(size, aspect="photo")))
