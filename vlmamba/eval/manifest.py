"""`manifest.json`: what a result rests on, so that runs can be compared and gone on with only as they were."""

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from vlmamba import __version__
from vlmamba.eval.reading import read_json
from vlmamba.eval.score import replace_file
from vlmamba.eval.task import Question

FORMAT = "vlmamba-eval-1"
NAME = "manifest.json"
_PARSERS = ("answers", "pairing", "letters", "vqa_accuracy", "yes_no")
_PACKAGES = ("torch", "numpy", "pillow", "tokenizers")
_WEIGHTS = ("config.json", "*.safetensors", "*.bin", "tokenizer.json", "p*processor_config.json")
# A folder with more files of a kind than this is described by one digest: MME has a text for every picture.
_MAX_LISTED = 20


def file_sha256(path: Path) -> str:
    """The digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _digest(parts: Iterable[str]) -> str:
    """One digest of several texts; where one ends and the next begins counts."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


def model_fingerprint(directory: Path) -> str:
    """One digest of a model directory: its configuration, weights, tokenizer and picture settings."""
    files = sorted({path for pattern in _WEIGHTS for path in directory.glob(pattern)})
    return _digest(text for path in files for text in (path.name, file_sha256(path)))


def describe_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file by its path; of many in one folder, of all together."""
    folders: dict[str, list[Path]] = {}
    for path in dict.fromkeys(path.resolve() for path in paths):
        folders.setdefault(str(path.parent / f"*{path.suffix}"), []).append(path)
    described = {}
    for pattern, files in folders.items():
        sizes = {path: path.stat().st_size for path in files}
        digests = {path: file_sha256(path) for path in files}
        if len(files) <= _MAX_LISTED:
            described |= {str(p): {"bytes": sizes[p], "sha256": digests[p]} for p in files}
        else:
            described[pattern] = {
                "count": len(files),
                "bytes": sum(sizes.values()),
                "sha256": _digest(text for p in sorted(files) for text in (p.name, digests[p])),
            }
    return described


def describe_pictures(files: dict[str, Path], embedded: Iterable[bytes]) -> dict[str, Any]:
    """Number and size of the pictures, and a digest of the names and sizes of files and the content of others."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    inside = {hashlib.sha256(content).hexdigest(): len(content) for content in embedded}
    everything = sorted((sizes | inside).items())
    return {
        "count": len(everything),
        "bytes": sum(size for _, size in everything),
        "sha256": _digest(f"{name} {size}" for name, size in everything),
    }


def prompts_sha256(questions: Sequence[Question]) -> str:
    """A digest of what is asked: every question's id and the exact text given to the model."""
    return _digest(text for question in questions for text in (question.id, question.prompt))


def parser_sha256(task: str) -> str:
    """A digest of the code that reads and scores a benchmark's answers."""
    names = [f"vlmamba.eval.tasks.{task}", *(f"vlmamba.eval.{name}" for name in _PARSERS)]
    return _digest(file_sha256(Path(str(import_module(name).__file__))) for name in names)


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {
        "vlmamba": __version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in _PACKAGES},
    }


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of an output folder, None where there is none. Raises ValueError for another kind of file."""
    path = out / NAME
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: no manifest of an evaluation; name another output folder")
    return content


def write_manifest(out: Path, model: dict[str, Any], tasks: dict[str, dict[str, Any]]) -> None:
    """Adds tasks to the manifest of `out`, or begins one."""
    before = read_manifest(out) or {"tasks": {}}
    tasks = before["tasks"] | tasks
    content = {
        "format": FORMAT,
        "partial": any(task["partial"] for task in tasks.values()),
        "versions": versions(),
        "model": model,
        "tasks": tasks,
    }
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
