"""Where the pictures of a benchmark's questions lie."""

from collections.abc import Sequence
from pathlib import Path

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
