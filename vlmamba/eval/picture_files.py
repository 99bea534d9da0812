"""Where the pictures of a benchmark's questions lie."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vlmamba.eval.plan import Album
from vlmamba.eval.task import Question

# LLaVA's name of a benchmark's folder, where it is not ours.
_LLAVA = {"mme": "MME", "mmvet": "mm-vet", "seed": "seed_bench"}
_FOLDERS = {
    "vqav2": ("val2014", "test2015", "train2014"),
    "gqa": ("data/images", "images"),
    "scienceqa": ("images/test",),
    "textvqa": ("train_images",),
    "pope": ("val2014",),
    "mme": ("MME_Benchmark_release_version",),
    "mmvet": ("images",),
}


def find_pictures(
    task: str, questions: Sequence[Question], data: Path, extra: Path | None = None
) -> tuple[dict[str, Path], list[str]]:
    """The file of each picture that the questions name, by that name, and the names of those that are not there.

    Looked for below `data`, its folder for the benchmark, and `extra`.
    """
    roots = [data, data / _LLAVA.get(task, task), *([extra] if extra else [])]
    folders = [
        folder
        for root in roots
        for name in (*_FOLDERS.get(task, ()), "")
        if (folder := root / name).is_dir()
    ]
    found: dict[str, Path] = {}
    missing = []
    for name in dict.fromkeys(q.image for q in questions if isinstance(q.image, str)):
        for number, folder in enumerate(folders):
            if (folder / name).is_file():
                found[name] = (folder / name).resolve()
                folders.insert(0, folders.pop(number))  # the next one probably lies there, too
                break
        else:
            missing.append(name)
    return found, missing


def describe_missing(task: str, missing: Sequence[str], num_pictures: int, data: Path) -> str:
    """One line about pictures that are not there, and what to do."""
    usual = " or ".join(str(data / name) for name in _FOLDERS.get(task, ("",)))
    return (
        f"{task}: {len(missing):,} of {num_pictures:,} pictures are missing, {missing[0]} first; they belong in "
        f"{usual}: name their folder with --pictures, or pass --allow-missing to leave their questions out"
    )


def name_pictures(albums: Sequence[Album], folder: Path) -> dict[str, str | None]:
    """What the evidence in `folder` calls each question's picture; pictures that come as bytes are written there."""
    names: dict[str, str | None] = {}
    for album in albums:
        name = None if album.picture is None else str(album.picture)
        if isinstance(album.picture, bytes):
            suffix = "png" if album.picture.startswith(b"\x89PNG") else "jpg"
            name = f"pictures/{hashlib.sha256(album.picture).hexdigest()[:16]}.{suffix}"
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(album.picture)
        names |= {question.id: name for question in album.questions}
    return names
