"""The folder that the picture paths of a data file start from; nothing outside it is ever opened."""

import os
from functools import lru_cache
from pathlib import Path, PurePosixPath

from vlmamba.data.faults import BadSampleError

# OCR-VQA's pictures are .jpg in LLaVA's file, but keep the ending of their source with some downloaders.
_OTHER_ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp")


class PictureFolder:
    """Finds pictures by their path below `root`. Raises FileNotFoundError when there is no such folder."""

    def __init__(self, root: str | Path) -> None:
        if not Path(root).is_dir():
            raise FileNotFoundError(f"{root}: no such folder of pictures")
        self.root = os.path.realpath(root)

    def find(self, name: str) -> Path:
        """The file of that name, or else of that name with another ending; it need not exist.

        Raises BadSampleError when the name, or a link on its way, leads out of the folder or to what is no file: a pipe
        would be waited on for ever.
        """
        if not _stays_inside(name):
            raise BadSampleError("path-outside", name)
        path = Path(self.root, name.replace("\\", "/"))
        parent = _real(str(path.parent))
        if not self._holds(parent):
            raise BadSampleError("path-outside", f"{name} is below a link to {parent}")
        if not path.exists():
            others = (path.with_suffix(ending) for ending in _OTHER_ENDINGS)
            path = next((other for other in others if other.exists()), path)
        if path.is_symlink() and not self._holds(target := os.path.realpath(path)):
            raise BadSampleError("path-outside", f"{name} is a link to {target}")
        if path.exists() and not path.is_file():
            raise BadSampleError("undecodable", f"{name} is not a file")
        return path

    def _holds(self, real: str) -> bool:
        return real == self.root or real.startswith(self.root.rstrip(os.sep) + os.sep)


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _stays_inside(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return (
        bool(parts)
        and parts[0] != "/"
        and ".." not in parts
        and ":" not in parts[0]
        and "\0" not in name
    )
