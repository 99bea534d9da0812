"""Where raw samples come from: numbered, read one by one in any order, from any thread or process."""

from pathlib import Path
from typing import Any, Protocol

from vlmamba.data.json_source import JsonSource


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


def open_source(data: str | Path, images: str | Path) -> Source:
    """The samples of a .json or .jsonl file, with pictures below the folder `images`.

    Raises FileNotFoundError for what is not there, ValueError for what is not of this format.
    """
    return JsonSource(data, images)
