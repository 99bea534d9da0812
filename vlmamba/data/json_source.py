"""Samples of one file, a JSON list or JSON lines, found by their place in it: the file is never held in memory."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from vlmamba.data.cache import Tables, cached, stamp
from vlmamba.data.faults import BadSampleError
from vlmamba.data.picture_folder import PictureFolder

_BLOCK = 1 << 24
_LARGEST = 1 << 26  # bytes of one sample; more is an unclosed bracket
_SHOWN = 1 << 20  # bytes of a broken sample that are kept
_SPACE = re.compile(r"\s*")
_SAMPLE = re.compile(
    r'\{\s*"(?:id|image|conversations|model)"\s*:'
)  # a turn begins with other keys
_BOM = b"\xef\xbb\xbf"


class Span(NamedTuple):
    """Where a sample stands in its file, in bytes, and its line, from 1."""

    start: int
    size: int
    line: int


class JsonSource:
    """The samples of a .json file, one list, or a .jsonl file, one sample a line; pictures are files in a folder.

    A sample that is no JSON is one of them too: reading it raises BadSampleError. Raises FileNotFoundError for
    a missing file or folder, ValueError for a file that is no list.
    """

    def __init__(self, file: str | Path, images: str | Path) -> None:
        self.file = Path(file)
        if not self.file.is_file():
            raise FileNotFoundError(f"{file}: no such data file")
        self.folder = PictureFolder(images)
        self.stamp, self.num_bytes = stamp([self.file]), self.file.stat().st_size
        self.spans = cached("spans", self.stamp, self.num_bytes, self._tables)["spans"]

    def __len__(self) -> int:
        return len(self.spans)

    def read(self, k: int) -> Any:
        start, size, line = self.spans[k].tolist()
        with self.file.open("rb") as file:
            file.seek(start)
            text = file.read(size)
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            where = f"{self.file}:{line + error.lineno - 1}"
            raise BadSampleError("bad-json", f"{where}: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise BadSampleError("bad-json", f"{self.place(k)}: {error}") from None

    def place(self, k: int) -> str:
        return f"{self.file}:{self.spans[k, 2]}"

    def picture(self, k: int, name: str) -> Path:
        return self.folder.find(name)

    def _tables(self) -> Tables:
        spans = lines(self.file) if self.file.suffix == ".jsonl" else elements(self.file)
        return {"spans": np.array(list(spans), dtype=np.int64).reshape(-1, 3)}


def lines(file: Path) -> Iterator[Span]:
    """The lines of a file that are not blank."""
    with file.open("rb") as opened:
        start = 0
        for number, line in enumerate(opened, 1):
            skipped = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            if line[skipped:].strip():
                yield Span(start + skipped, len(line) - skipped, number)
            start += len(line)


def elements(file: Path) -> Iterator[Span]:
    """The elements of a JSON list; after a broken one it goes on where the next sample seems to begin."""
    with file.open("rb") as opened:
        window = _Window(opened)
        if window.peek() != "[":
            raise ValueError(f"{file} holds no list of samples: name JSON lines .jsonl")
        window.take(1)
        if window.peek() == "]":
            return
        while window.peek():
            span = window.element()
            yield span or window.broken()
            if span is None:
                continue
            mark = window.peek()
            if mark == ",":
                window.take(1)
            elif mark == "]":
                window.take(1)
                if window.peek():
                    yield window.broken()
                return
            else:
                yield window.broken()


class _Window:
    """A stretch of a file's text that moves along it; `byte` and `line` say where its first character stands."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.scanner = json.JSONDecoder()
        self.text, self.at, self.byte, self.line = "", 0, 0, 1
        if file.read(len(_BOM)) == _BOM:
            self.byte = len(_BOM)
        else:
            file.seek(0)

    def extend(self) -> bool:
        """Reads on; false at the end of the file."""
        block = self.file.read(_BLOCK)
        self.text = self.text[self.at :] + self.decoder.decode(block, final=not block)
        self.at = 0
        return bool(block)

    def take(self, count: int) -> Span:
        """Moves over so many characters and says where they stand."""
        taken = self.text[self.at : self.at + count]
        span = Span(self.byte, len(taken.encode("utf-8", "surrogateescape")), self.line)
        self.at += count
        self.byte += span.size
        self.line += taken.count("\n")
        return span

    def peek(self) -> str:
        """The next character that is not white space, "" at the end of the file."""
        while True:
            found = _SPACE.match(self.text, self.at)
            assert found is not None
            self.take(found.end() - self.at)
            if self.at < len(self.text) or not self.extend():
                return self.text[self.at : self.at + 1]

    def element(self) -> Span | None:
        """Moves over one JSON value; None, and no move, where there is none."""
        while True:
            try:
                _, end = self.scanner.raw_decode(self.text, self.at)
            except (ValueError, RecursionError):
                end = None
            if end is not None and end < len(self.text):
                return self.take(end - self.at)
            if len(self.text) - self.at > _LARGEST or not self.extend():
                return None if end is None else self.take(end - self.at)

    def broken(self) -> Span:
        """Moves on to the next sample, or to the end of the file; what is passed over counts as one element."""
        while (found := _SAMPLE.search(self.text, self.at + 1)) is None and self.extend():
            pass
        passed = self.take((found.start() if found else len(self.text)) - self.at)
        return passed._replace(size=min(passed.size, _SHOWN))
