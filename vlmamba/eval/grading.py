"""Grades for MM-Vet: from a file, or from a judge, whose replies are kept as they come."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmamba.eval.judge import connect
from vlmamba.eval.score import read_grades, replace_file
from vlmamba.eval.task import Pair
from vlmamba.eval.tasks import mmvet


@dataclass(frozen=True)
class Grading:
    """Where grades come from: a grades file, or a judge at `url` with MM-Vet's prompt in a file; or nowhere."""

    grades: Path | None = None
    url: str | None = None
    model: str = mmvet.JUDGE_MODEL
    prompt: Path | None = None
    num_runs: int = 1
    api_key: str = ""

    def check(self) -> None:
        """Raises ValueError or FileNotFoundError now for what would go wrong when the answers are there."""
        if self.grades is not None and self.url is not None:
            raise ValueError("give --grades or --judge, not both")
        if self.num_runs < 1:
            raise ValueError(f"--judge-runs must be at least 1, got {self.num_runs}")
        if self.grades is not None:
            read_grades(self.grades)
        if self.url is not None:
            if self.prompt is None:
                raise ValueError(
                    "--judge needs --judge-prompt FILE: the string `prompt` of mm-vet_evaluator.py"
                )
            mmvet.read_judge_prompt(self.prompt)

    def table(self, pairs: Sequence[Pair], kept: Path | None) -> dict[str, Any] | None:
        """The grades of these answers, None where there is nobody to give them.

        `kept` is a file in which a judge's grades are written one by one; answers that the same judge graded there
        before are not graded again. Raises ConnectionError where the judge cannot be reached.
        """
        if self.grades is not None:
            return read_grades(self.grades)
        if self.url is None or self.prompt is None:
            return None
        prompt = mmvet.read_judge_prompt(self.prompt)
        judge = connect(self.url, self.model, self.api_key)
        before = read_grades(kept) if kept is not None and kept.exists() else {}
        grades: dict[str, Any] = {}
        for question, text in pairs:
            old = before.get(question.id, {})
            if old.get("model") == [self.model] * self.num_runs and old.get("answer") == text:
                grades[question.id] = old
                continue
            new = mmvet.grade_answers(
                [(question, text)], judge, prompt, self.model, num_runs=self.num_runs
            )
            # The answer stands beside its grade, so that a grade never serves another answer.
            grades |= {number: grade | {"answer": text} for number, grade in new.items()}
            if kept is not None:
                replace_file(kept, json.dumps(before | grades, indent=1, ensure_ascii=False) + "\n")
        return grades
