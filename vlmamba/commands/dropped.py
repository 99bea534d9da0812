"""Paths in a line of a chat: dropped on the terminal, pasted, or typed before the question."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Terminals paste a dropped file in quotes, or with a backslash before what the shell would not take.
_WORD = re.compile(r"""\s*(?:'([^']+)'|"([^"]+)"|((?:\\.|[^\s\\])+))(?=\s|$)""")


def split_paths(line: str) -> tuple[list[Path], str]:
    """The files that a line begins with, and the rest of it."""
    whole = existing_file(line.strip())
    if whole is not None:
        return [whole], ""
    paths: list[Path] = []
    while word := _WORD.match(line):
        single, double, bare = word.groups()
        path = existing_file(single or double or re.sub(r"\\(.)", r"\1", bare))
        if path is None:
            break
        paths.append(path)
        line = line[word.end() :]
    return paths, line.strip()


def existing_file(text: str) -> Path | None:
    """The file that a text names, as a path or a file:// address; None when there is none."""
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    try:
        path = Path(text).expanduser()
        return path if path.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long for a path, a null byte, an unknown home
        return None
