"""MM-Vet: open answers graded by a language model (Table 1, column MM-Vet).

The judge's prompt is not ours to ship: it is read from a file. Grades drift with the judge, so its name and its raw
replies are kept. Source: yuweihao/MM-Vet, `mm-vet_evaluator.py`.
"""

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import mean_interval
from vlmamba.eval.reading import find, get, get_strings, read_objects
from vlmamba.eval.task import NotScorableError, Pair, Protocol, Question, Sample, Scores

MAX_NEW_TOKENS = 1024
PROTOCOLS: tuple[Protocol, ...] = ("official",)
PUBLISHED_SIZE = 218
JUDGE_MODEL = "gpt-4-0613"
PROMPT_SHA256 = "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"
MAX_TRIES = 5
ASK_AGAIN = "\nPredict the correctness of the answer (digit): "

# Takes a message and a temperature, returns the model's reply.
Judge = Callable[[str, float], str]


@dataclass(frozen=True)
class Grade:
    """A score in [0, 1], with every reply and the temperature that it was asked at."""

    score: float
    replies: tuple[str, ...]
    temperatures: tuple[float, ...]


def read_judge_prompt(path: Path) -> str:
    """The fixed prompt: the string `prompt` of `mm-vet_evaluator.py`, byte for byte.

    Raises ValueError for any other text, by its SHA-256.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; save the string `prompt` of mm-vet_evaluator.py there"
        )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != PROMPT_SHA256:
        raise ValueError(
            f"{path}: not MM-Vet's prompt ({len(content)} bytes, SHA-256 {digest[:8]}...; it has 2290 bytes, "
            f"{PROMPT_SHA256[:8]}...): save the string `prompt` of mm-vet_evaluator.py as it is, UTF-8"
        )
    return content.decode()


def grader_row(question: str, answer: str, prediction: str) -> str:
    """The row to be completed: `question | answer | prediction | `, spaces around <AND> and <OR> of the answer."""
    answer = answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return " | ".join([question, answer, prediction, ""])


def parse_reply(reply: str, *, reject_nan: bool = True) -> float | None:
    """The number before the first space if it is in [0, 1]. The public script lets nan pass; we do not."""
    try:
        value = float(reply.split(" ")[0].strip())
    except ValueError:
        return None
    if value != value:
        return None if reject_nan else value
    return value if 0 <= value <= 1 else None


def grade(judge: Judge, message: str, *, reject_nan: bool = True) -> Grade:
    """Asks until a reply can be read, hotter each time; after six calls the score is 0 and the sixth is not read."""
    replies = [judge(message, 0.0)]
    temperatures = [0.0]
    for number in range(MAX_TRIES):
        value = parse_reply(replies[-1], reject_nan=reject_nan)
        if value is not None:
            return Grade(value, tuple(replies), tuple(temperatures))
        temperatures.append(0.5 * number)
        replies.append(judge(message + ASK_AGAIN, temperatures[-1]))
    return Grade(0.0, tuple(replies), tuple(temperatures))


def grade_answers(
    pairs: Sequence[Pair], judge: Judge, judge_prompt: str, judge_model: str, *, num_runs: int = 1
) -> dict[str, dict[str, list[Any]]]:
    """Grades in the official form, {id: {model, content, score}} with an entry a run; raw replies in content."""
    grades: dict[str, dict[str, list[Any]]] = {}
    for question, text in pairs:
        if text is None:
            continue
        row = grader_row(question.prompt, question.gold["answer"], text)
        runs = [grade(judge, f"{judge_prompt}\n{row}") for _ in range(num_runs)]
        grades[question.id] = {
            "model": [judge_model] * num_runs,
            "content": [run.replies[-1] for run in runs],
            "score": [run.score for run in runs],
        }
    return grades


def aggregate(items: Sequence[tuple[Sequence[str], Sequence[float]]]) -> dict[str, Any]:
    """Means x 100 by capability (a question counts for each it has), by exact set of them, in total; one decimal.

    Items are (capabilities, scores of the runs). std is that of the runs' totals, over their number.
    Raises ValueError for items with different numbers of runs.
    """
    num_runs = {len(scores) for _, scores in items}
    if len(num_runs) != 1 or 0 in num_runs:
        raise ValueError(
            f"every question needs the same number of graded runs, not {sorted(num_runs)}"
        )
    by_capability: dict[str, list[np.ndarray]] = {}
    by_set: dict[str, list[np.ndarray]] = {}
    everything = []
    for capabilities, scores in items:
        runs = np.asarray(scores, dtype=np.float64)
        for capability in dict.fromkeys(capabilities):
            by_capability.setdefault(capability, []).append(runs)
        by_set.setdefault("_".join(sorted(set(capabilities))), []).append(runs)
        everything.append(runs)

    def run_means(scores: list[np.ndarray]) -> np.ndarray:
        return sum(scores, np.zeros_like(scores[0])) / len(scores) * 100

    def mean(scores: list[np.ndarray]) -> float:
        return float(np.round(run_means(scores).mean(), 1))

    totals = run_means(everything)
    whole = {"total": mean(everything), "std": float(np.round(totals.std(), 1))}
    return {
        "capability": {name: mean(scores) for name, scores in by_capability.items()} | whole,
        "integration": {name: mean(scores) for name, scores in by_set.items()}
        | {"total": whole["total"]},
        "runs": [float(value) for value in np.round(totals, 1)],
    }


def read(data: Path) -> tuple[list[Question], list[str]]:
    """The questions of `mm-vet.json`."""
    path = find(data, "mm-vet.json", "mm-vet/mm-vet.json")
    questions = []
    for place, number, record in read_objects(path):
        capabilities = get_strings(record, "capability", place)
        gold = {"answer": get(record, "answer", place, str), "capability": capabilities}
        questions.append(
            Question(
                number,
                get(record, "question", place, str),
                gold,
                get(record, "imagename", place, str),
                "_".join(sorted(capabilities)),
                (number, number.removeprefix("v1_")),
            )
        )
    if len(questions) == PUBLISHED_SIZE:
        return questions, [f"v1, {PUBLISHED_SIZE} questions"]
    return questions, [f"{len(questions)} questions; MM-Vet v1 has {PUBLISHED_SIZE}"]


def answer_key(answer: Answer) -> Hashable:
    """Answers go by `v1_<N>`, or by N alone as in LLaVA's list."""
    return answer.id


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """MM-Vet answers have no score of their own. Always raises NotScorableError that says how to get one."""
    raise NotScorableError(
        "MM-Vet answers must be graded first: give a file of grades ({id: {model, content, score}}), "
        "or a judge and the file with its prompt"
    )


def score_grades(
    pairs: Sequence[Pair], grades: Mapping[str, Mapping[str, Sequence[Any]]]
) -> Scores:
    """The total (mean over runs), by capability and capability set, from grades by id.

    Raises ValueError for an answered question without a grade.
    """
    answered = [(question, text) for question, text in pairs if question.id in grades]
    ungraded = [q.id for q, text in pairs if text is not None and q.id not in grades]
    if ungraded:
        raise ValueError(f"{len(ungraded)} answers have no grade, {ungraded[0]} first")
    result = aggregate([(q.gold["capability"], grades[q.id]["score"]) for q, _ in answered])
    judges = sorted({str(name) for q, _ in answered for name in grades[q.id].get("model", [])})
    samples = [
        Sample(
            question.id,
            question.category,
            question.prompt,
            text,
            " ".join(map(str, grades[question.id].get("content", []))),
            question.gold["answer"],
            float(np.mean(grades[question.id]["score"])),
            f"judge {', '.join(judges) or 'unknown'}",
        )
        for question, text in answered
    ]
    notes = [f"judge: {', '.join(judges) or 'unknown'}; runs: {result['runs']}"]
    if judges != [JUDGE_MODEL]:
        notes.append(f"published numbers come from {JUDGE_MODEL}: other judges grade otherwise")
    return Scores(
        "mmvet",
        "official",
        "judged mean",
        result["capability"]["total"],
        mean_interval([sample.score for sample in samples]),
        {"capability": result["capability"], "integration": result["integration"]},
        samples,
        len(pairs),
        len(pairs) - len(samples),
        notes,
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """{"v1_<N>": answer}, as the evaluator and the online grader take it."""
    answers = {question.id: text for question, text in pairs if text is not None}
    path.write_text(json.dumps(answers, indent=1), encoding="utf-8")
