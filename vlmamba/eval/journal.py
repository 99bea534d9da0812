"""Answers kept on disk as they come, so that a killed run loses none and repeats none."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vlmamba.eval.reading import parse_json_lines
from vlmamba.eval.score import replace_file

NAME = "answers.jsonl"


class Journal:
    """`answers.jsonl` of a folder. Of several processes each writes its own file; `merge` makes one of all."""

    def __init__(self, folder: Path, rank: int = 0, world_size: int = 1) -> None:
        self.folder = folder
        self.path = folder / (NAME if world_size == 1 else f"answers.{rank}.jsonl")

    def read(self) -> dict[str, dict[str, Any]]:
        """The answers that stand in any of the files, by question id; a line cut short by a kill is none."""
        answers: dict[str, dict[str, Any]] = {}
        for path in self._paths():
            whole = path.read_bytes()[: _end_of_last_line(path)].decode()
            for place, record in parse_json_lines(whole, path):
                if not isinstance(record.get("question_id"), str) or not isinstance(
                    record.get("text"), str
                ):
                    raise ValueError(f"{place}: no answer of ours; delete the line and run again")
                answers.setdefault(record["question_id"], record)
        return answers

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Adds answers behind the last whole line; when it returns they outlive the process."""
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.truncate(_end_of_last_line(self.path))
            file.write(text.encode())

    def merge(self, order: Sequence[str]) -> None:
        """Puts all answers into `answers.jsonl`, in the order of the ids, and removes the files of the processes."""
        answers = self.read()
        lines = [json.dumps(answers[i], ensure_ascii=False) for i in order if i in answers]
        replace_file(self.folder / NAME, "".join(f"{line}\n" for line in lines))
        for path in self._paths():
            if path.name != NAME:
                path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("answers*.jsonl"))


def _end_of_last_line(path: Path) -> int:
    with path.open("rb") as file:
        end = file.seek(0, 2)
        while end:
            start = max(end - 65536, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
