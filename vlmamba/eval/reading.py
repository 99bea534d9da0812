"""Reading the files of benchmarks; whatever is wrong with one is said in one line, with file and line."""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def optional_module(name: str, purpose: str) -> Any:
    """The module, which only `purpose` needs. Raises ModuleNotFoundError that says how to install it."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        package = name.split(".")[0]
        raise ModuleNotFoundError(
            f"{purpose} needs {package}: pip install 'vlmamba[eval]'"
        ) from None


def find(data: Path, *candidates: str) -> Path:
    """The first of the candidate paths that exists below `data`.

    Raises FileNotFoundError that names the folder and what was looked for.
    """
    for candidate in candidates:
        if (data / candidate).exists():
            return data / candidate
    looked = " or ".join(candidates)
    raise FileNotFoundError(f"{data}: no {looked}; pass the folder that holds it with --data")


def find_optional(data: Path, *candidates: str) -> Path | None:
    """As `find`, but None where nothing is there."""
    return next((data / name for name in candidates if (data / name).exists()), None)


_paths_read: ContextVar[list[Path] | None] = ContextVar("paths_read", default=None)


@contextmanager
def noting_files() -> Iterator[list[Path]]:
    """A list that grows by every file read inside: what a result rests on."""
    paths: list[Path] = []
    before = _paths_read.set(paths)
    try:
        yield paths
    finally:
        _paths_read.reset(before)


def _check_file(path: Path) -> None:
    if (paths := _paths_read.get()) is not None:
        paths.append(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; a file is needed")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises ValueError where it is none, FileNotFoundError or IsADirectoryError."""
    _check_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path: Path) -> Any:
    """A JSON file. Raises ValueError with file:line where it is malformed."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: malformed JSON: {error.msg}") from None


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSON-lines file with its place `file:line`; blank lines are passed over.

    Raises ValueError for a line that is no JSON object.
    """
    yield from parse_json_lines(read_text(path), path)


def parse_json_lines(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `read_json_lines`, from the text of the file at `path`."""
    # Not splitlines: that would also cut at the Unicode line separators that answers may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: malformed JSON: {error.msg}") from None
        if not isinstance(record, dict):
            raise ValueError(
                f"{path}:{number}: a JSON object is needed, not {type(record).__name__}"
            )
        yield f"{path}:{number}", record


def read_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of a tab-separated file with a header line, with its place `file:line`.

    Raises ValueError for a row with too few or too many cells.
    """
    csv.field_size_limit(sys.maxsize)  # pictures are embedded in base64
    _check_file(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t")
        header = next(reader, None)
        if header is None:
            raise ValueError(f"{path}: empty; a header line is needed")
        for cells in reader:
            place = f"{path}:{reader.line_num}"
            if len(cells) != len(header):
                raise ValueError(f"{place}: {len(cells)} cells; the header has {len(header)}")
            yield place, dict(zip(header, cells, strict=True))


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a .parquet file."""
    parquet = optional_module("pyarrow.parquet", "a .parquet file")
    _check_file(path)
    return parquet.read_table(path).to_pylist()


_NAMES = {
    str: "a string",
    int: "a whole number",
    dict: "an object",
    list: "a list",
    bool: "true or false",
}


def get(record: Any, key: str, place: str, kind: type[T]) -> T:
    """`record[key]`, of the given kind. Raises ValueError that names the place and what is there instead."""
    if not isinstance(record, dict):
        raise ValueError(f"{place}: an object with {key!r} is needed, not {record!r:.60}")
    if key not in record:
        has = ", ".join(map(repr, record)) or "none"
        raise ValueError(f"{place}: no field {key!r}; it has {has:.200}")
    value = record[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{place}: {key} must be {_NAMES[kind]}, not {value!r:.60}")
    return value


def get_id(record: Any, key: str, place: str) -> str:
    """An id that may be written as a string or as a whole number, as a string."""
    if isinstance(record, dict) and isinstance(record.get(key), str):
        return record[key]
    return str(get(record, key, place, int))


def get_strings(record: Any, key: str, place: str) -> list[str]:
    """A list of strings."""
    values = get(record, key, place, list)
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{place}: {key} must be a list of strings; one is {value!r:.60}")
    return values


def get_records(record: Any, key: str, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a list, with its place."""
    for number, value in enumerate(get(record, key, place, list), start=1):
        if not isinstance(value, dict):
            raise ValueError(
                f"{place}: entry {number} of {key} must be an object, not {value!r:.60}"
            )
        yield f"{place} (entry {number} of {key})", value


def read_objects(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each (place, key, object) of a JSON file that holds one object of objects."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an object is needed, not {content!r:.60}")
    for key, value in content.items():
        if not isinstance(value, dict):
            raise ValueError(f"{path} ({key}): an object is needed, not {value!r:.60}")
        yield f"{path} ({key})", key, value
