"""Where raw samples come from: numbered, read one by one in any order, from any thread or process."""

from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from vlmamba.data.faults import BadSampleError
from vlmamba.data.json_source import JsonSource
from vlmamba.data.parquet_source import ParquetSource
from vlmamba.data.tar_source import TarSource
from vlmamba.pictures import PictureError, open_picture


class Source(Protocol):
    """Numbered samples as JSON has them, in LLaVA's format, with their pictures.

    A source can be pickled. Two that hold the same have the same `stamp`; `num_bytes` is the size of its files.
    """

    @property
    def stamp(self) -> str: ...

    @property
    def num_bytes(self) -> int: ...

    def __len__(self) -> int: ...

    def read(self, k: int) -> Any:
        """The k-th sample; raises BadSampleError when it cannot be read."""
        ...

    def place(self, k: int) -> str:
        """Where the k-th sample stands, for people."""
        ...

    def picture(self, k: int, name: str) -> Path | bytes:
        """A picture that the k-th sample names, as `open_picture` takes it; raises BadSampleError."""
        ...


def open_source(data: str | Path, images: str | Path | None) -> Source:
    """The samples of a .json or .jsonl file, with pictures below the folder `images`; or of a folder of shards.

    Shards are .tar or .parquet files that hold their pictures, so that `images` is not asked for. Raises
    FileNotFoundError for what is not there, ValueError for what is not of this format.
    """
    path = Path(data)
    if path.is_dir():
        return _shards(path)
    if not images:
        raise ValueError(f"{path} needs the folder that its picture paths start from")
    return JsonSource(path, images)


def _shards(folder: Path) -> Source:
    tars, parquets = sorted(folder.glob("**/*.tar")), sorted(folder.glob("**/*.parquet"))
    if tars and parquets:
        raise ValueError(f"{folder} holds .tar and .parquet files: keep them apart")
    if not (tars or parquets):
        raise ValueError(
            f"{folder} holds no .tar or .parquet shard: name one of those, or a .json file"
        )
    return TarSource(tars) if tars else ParquetSource(parquets)


def picture_of(source: Source, k: int, name: str) -> Image.Image:
    """A picture that the k-th sample names, decoded; raises BadSampleError."""
    found = source.picture(k, name)
    try:
        return open_picture(found)
    except PictureError as error:
        where = "" if isinstance(found, Path) else f"{name}: "  # a path is in the message
        raise BadSampleError(error.reason, f"{where}{error}") from None
