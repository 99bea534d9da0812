"""What reading a large data set once has told, kept as tables in the user's cache directory."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Table = NDArray[np.integer]
Tables = dict[str, Table]

WORTH_KEEPING = 1 << 24  # bytes of data; less is read anew each time


def directory() -> Path:
    """`$XDG_CACHE_HOME/vlmamba/data`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmamba" / "data"


def stamp(files: Sequence[Path]) -> str:
    """Tells files apart, and the versions of one file: by path, size and time of the last change."""
    facts = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return digest(facts)


def digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def cached(kind: str, key: str, num_bytes: int, make: Callable[[], Tables]) -> Tables:
    """What `make` returns, out of the cache if it was made before. Of several processes one makes it.

    num_bytes: of the data that it is about; little data is not worth a file. A cache that cannot be written
    is done without.
    """
    if num_bytes < WORTH_KEEPING:
        return make()
    file = directory() / f"{kind}-{key}.safetensors"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{file}.lock")
        lock.acquire()
    except OSError:
        return make()
    try:
        if file.exists():
            return load_file(file)
        tables = make()
        _write(file, tables)
        return tables
    finally:
        lock.release()


def _write(file: Path, tables: Tables) -> None:
    """Aside, then renamed, so that a file in the cache is always whole."""
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".partial")
    os.close(handle)
    try:
        save_file({k: np.ascontiguousarray(v) for k, v in tables.items()}, name)
        os.replace(name, file)
    except OSError:
        os.unlink(name)
