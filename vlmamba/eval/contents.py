"""What a benchmark's folder holds: questions, pictures, and which files they came from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmamba.eval import manifest
from vlmamba.eval.picture_files import find_pictures
from vlmamba.eval.reading import noting_files
from vlmamba.eval.task import Question
from vlmamba.eval.tasks import benchmark


@dataclass(frozen=True)
class Contents:
    """The questions of a benchmark, the files of their pictures by name, and the pictures that are not there."""

    task: str
    data: Path
    questions: list[Question]
    notes: list[str]
    paths: list[Path]
    files: dict[str, Path]
    missing: list[str]

    @classmethod
    def read(cls, task: str, data: Path, pictures: Path | None = None) -> "Contents":
        """Reads the files below `data`; `pictures` is a further folder to look for pictures in.

        Raises ValueError or FileNotFoundError, each with one line that says what to do.
        """
        module = benchmark(task)
        if not data.is_dir():
            raise FileNotFoundError(f"{data}: no such folder; name the data's with --data")
        if pictures is not None and not pictures.is_dir():
            raise FileNotFoundError(
                f"{pictures}: no such folder; name the pictures' with --pictures"
            )
        with noting_files() as paths:
            questions, notes = module.read(data)
        files, missing = find_pictures(task, questions, data, pictures)
        return cls(task, data, questions, notes, paths, files, missing)

    def describe(self, asked: Sequence[Question]) -> dict[str, Any]:
        """The manifest's words about the files, and about the questions among them that were asked."""
        names = [q.image for q in asked if isinstance(q.image, str)]
        named = {name: self.files[name] for name in names if name in self.files}
        embedded = (q.image for q in asked if isinstance(q.image, bytes))
        return {
            "num_questions": len(self.questions),
            "missing_pictures": len(self.missing),
            "notes": self.notes,
            "data": str(self.data.resolve()),
            "files": manifest.describe_files(self.paths),
            "pictures": manifest.describe_pictures(named, embedded),
            "prompts_sha256": manifest.prompts_sha256(asked),
            "parser_sha256": manifest.parser_sha256(self.task),
        }
