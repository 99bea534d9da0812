"""ScienceQA: multiple choice with lectures; Table 1's column SQA-I is the accuracy on test questions with an image.

Source: LLaVA's `eval_science_qa.py`; the result file is that of the official ScienceQA tool.
"""

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import mean_interval
from vlmamba.eval.prompts import LETTER, lettered
from vlmamba.eval.reading import find, get, get_strings, read_json, read_objects
from vlmamba.eval.task import (
    NotScorableError,
    Pair,
    Protocol,
    Question,
    Sample,
    Scores,
    percent,
    percent_by,
)

MAX_NEW_TOKENS = 1024
PROTOCOLS: tuple[Protocol, ...] = ("official", "lmms-eval")
PUBLISHED_SIZES = {4241: 2017}
OPTIONS = ("A", "B", "C", "D", "E")
FAILED = "FAILED"

# The last dot is a wildcard in the public pattern: any one character must follow the letter.
_THE_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")


def parse(text: str) -> tuple[str, str]:
    """The letter (or FAILED) and the rule that found it; nothing is stripped, so `B.` and `b` fail.

    In this order: the text is a letter; it starts with a letter, a dot and a space; it says `The answer is X.` once.
    """
    if text in OPTIONS:
        return text, "the letter alone"
    if len(text) >= 3 and text[0] in OPTIONS and text[1:3] == ". ":
        return text[0], "letter, dot, space"
    found = _THE_ANSWER_IS.findall(text)
    if len(found) == 1:
        return found[0], "The answer is"
    return FAILED, "no rule"


def choice_index(letter: str, num_choices: int) -> int:
    """The letter's index among the choices; -1 for FAILED or a letter beyond them (`get_pred_idx`)."""
    options = OPTIONS[:num_choices]
    return options.index(letter) if letter in options else -1


def is_correct_lmms_eval(text: str, answer: int) -> bool:
    """lmms-eval: after stripping, the letter in either case, or a capital letter and a dot in front."""
    text, gold = text.strip(), OPTIONS[answer]
    if text.upper() == gold:
        return True
    return len(text) >= 2 and text[0].isupper() and text[1] == "." and text[0] == gold


def evaluate(
    problems: Mapping[str, Mapping[str, Any]], predictions: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """All of `eval_science_qa.py`'s numbers from records {text, prompt} by problem id.

    A missing prediction is wrong in `acc`; `img_acc` counts the records whose stored prompt holds `<image>`, so a
    missing one drops out of it. Percentages; 0 over no questions, where the script divides by zero.
    """
    results = {}
    correct, with_image = [], []
    for pid, problem in problems.items():
        record = predictions.get(pid, {"text": FAILED, "prompt": "Unknown"})
        results[pid] = choice_index(parse(record["text"])[0], len(problem["choices"]))
        correct.append(float(results[pid] == problem["answer"]))
        if "<image>" in record["prompt"]:
            with_image.append(correct[-1])
    return {
        "total": len(correct),
        "correct": int(sum(correct)),
        "acc": percent(correct),
        "img_correct": int(sum(with_image)),
        "img_total": len(with_image),
        "img_acc": percent(with_image),
        "results": results,
    }


def prompt(problem: Mapping[str, Any]) -> str:
    """LLaVA's CQM-A form: hint, question, lettered choices, and the request for the letter."""
    hint = f"Context: {problem['hint']}\n" if problem.get("hint") else ""
    return hint + problem["question"] + lettered(problem["choices"]) + LETTER


def read(data: Path) -> tuple[list[Question], list[str]]:
    """The test split of `problems.json` and `pid_splits.json`."""
    problems_path = find(data, "problems.json", "scienceqa/problems.json")
    splits_path = find(data, "pid_splits.json", "scienceqa/pid_splits.json")
    problems = {pid: (place, problem) for place, pid, problem in read_objects(problems_path)}
    questions = []
    for pid in get_strings(read_json(splits_path), "test", str(splits_path)):
        if pid not in problems:
            raise ValueError(f"{splits_path}: test problem {pid} is not in {problems_path}")
        place, problem = problems[pid]
        get(problem, "question", place, str)
        choices = get_strings(problem, "choices", place)
        if not 0 <= get(problem, "answer", place, int) < min(len(choices), len(OPTIONS)):
            raise ValueError(f"{place}: answer {problem['answer']} is none of its choices")
        image = f"{pid}/{problem['image']}" if problem.get("image") else None
        subject = problem.get("subject") or ""
        questions.append(Question(pid, prompt(problem), problem, image, str(subject)))
    num_images = sum(question.image is not None for question in questions)
    size = f"{len(questions):,} test questions, {num_images:,} with an image"
    if PUBLISHED_SIZES.get(len(questions)) == num_images:
        return questions, [f"the test split: {size}"]
    return questions, [f"{size}; the published test split has 4,241 and 2,017"]


def answer_key(answer: Answer) -> Hashable:
    """Answers go by problem id."""
    return answer.id


def score_sample(question: Question, text: str | None, protocol: Protocol) -> Sample:
    """One problem's evidence; no answer is a wrong one."""
    choices, gold = question.gold["choices"], question.gold["answer"]
    letter, rule = parse(text) if text is not None else (FAILED, "no answer")
    correct = choice_index(letter, len(choices)) == gold
    if protocol == "lmms-eval":
        correct = text is not None and is_correct_lmms_eval(text, gold)
        letter, rule = (text or "").strip()[:1].upper(), "letter of either case, or letter and dot"
    return Sample(
        question.id,
        question.category,
        question.prompt,
        text,
        letter,
        OPTIONS[gold],
        float(correct),
        rule,
    )


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """Accuracy on the questions with an image (by the problem itself, not by the stored prompt) and on all.

    A missing answer is wrong, as in `eval_science_qa.py`, except that the questions without an image may be left
    out altogether: then only the former accuracy is given.
    """
    with_image = [(question, text) for question, text in pairs if question.image is not None]
    images_alone = all(text is None for question, text in pairs if question.image is None)
    scored = with_image if images_alone else list(pairs)
    samples = [score_sample(question, text, protocol) for question, text in scored]
    image_ids = {question.id for question, _ in with_image}
    image_scores = [sample.score for sample in samples if sample.id in image_ids]
    tables: dict[str, dict[str, Any]] = {
        "with image": {"accuracy": percent(image_scores), "questions": len(image_scores)},
        "subject": percent_by(samples, [sample.category for sample in samples]),
    }
    if not images_alone:
        everything = [sample.score for sample in samples]
        tables["all"] = {"accuracy": percent(everything), "questions": len(everything)}
    if not image_scores:
        raise NotScorableError("no question with an image among these: nothing for SQA-I")
    return Scores(
        "scienceqa",
        protocol,
        "accuracy, questions with an image",
        percent(image_scores),
        mean_interval(image_scores),
        tables,
        samples,
        len(scored),
        sum(text is None for _, text in scored),
        ["only the questions with an image were answered"] if images_alone else [],
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """{"results": {pid: predicted index}} for the official ScienceQA tool, which expects every test problem."""
    results = {
        question.id: choice_index(parse(text or "")[0], len(question.gold["choices"]))
        for question, text in pairs
    }
    path.write_text(json.dumps({"results": results}, indent=1), encoding="utf-8")
