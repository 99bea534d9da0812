"""TextVQA: m4c soft accuracy on validation, v0.5.1 (Table 1, column VQA-T; prompts with OCR tokens).

Sources: LLaVA's `eval_textvqa.py` and `m4c_evaluator.py`.
"""

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import mean_interval
from vlmamba.eval.prompts import SHORT
from vlmamba.eval.reading import (
    find,
    find_optional,
    get,
    get_id,
    get_records,
    get_strings,
    read_json,
    read_json_lines,
)
from vlmamba.eval.task import Pair, Protocol, Question, Sample, Scores, percent
from vlmamba.eval.vqa_accuracy import normalize_m4c, normalize_vlmevalkit, soft_accuracy

MAX_NEW_TOKENS = 128
PROTOCOLS: tuple[Protocol, ...] = ("official", "lmms-eval", "vlmevalkit")
PUBLISHED_SIZE = 5000
NUM_ANNOTATORS = 10


def question_of(prompt: str) -> str:
    """The lower-cased question inside a stored prompt (`prompt_processor` in `eval_textvqa.py`).

    Raises ValueError for a prompt of none of the known forms.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        found = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        if found:
            return found[1].lower()
    elif "Reference OCR token: " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith("Reference OCR token:") else 0].lower()
    elif len(lines) == 2:
        return lines[0].lower()
    raise ValueError(
        f"no question found in the prompt {prompt!r:.80}; two lines are needed (question, ending), or three with "
        "'Reference OCR token: ', or 'OCR tokens: ... Question: ... Short answer:'"
    )


def normalize(text: str, protocol: Protocol = "official") -> str:
    """m4c's normaliser; VLMEvalKit has VQA-v2's, with its own full stops. lmms-eval strips first, to no effect."""
    return normalize_vlmevalkit(text) if protocol == "vlmevalkit" else normalize_m4c(text)


def accuracy(text: str, answers: Sequence[str], protocol: Protocol = "official") -> float:
    """Soft accuracy in [0, 1]; both sides are always normalised (`TextVQAAccuracyEvaluator`).

    Raises ValueError unless there are ten answers.
    """
    if len(answers) != NUM_ANNOTATORS:
        raise ValueError(f"{len(answers)} answers; m4c accuracy needs {NUM_ANNOTATORS}")
    return soft_accuracy(normalize(text, protocol), [normalize(a, protocol) for a in answers])


def _read_ocr_prompts(path: Path | None) -> dict[tuple[str, str], str]:
    if path is None:
        return {}
    prompts: dict[tuple[str, str], str] = {}
    for place, record in read_json_lines(path):
        prompt = get(record, "text", place, str)
        try:
            prompts[get_id(record, "question_id", place), question_of(prompt)] = prompt
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    return prompts


def read(data: Path) -> tuple[list[Question], list[str]]:
    """`TextVQA_0.5.1_val.json`, with LLaVA's OCR prompts where its jsonl lies beside it.

    Several questions share an image, and LLaVA's question_id is the image's: a question goes by (image, question),
    or by its own number, with its prompt or without. Where a question is asked twice of one image, the later one's
    answers count for both, as in `eval_textvqa.py`.
    """
    path = find(data, "TextVQA_0.5.1_val.json", "textvqa/TextVQA_0.5.1_val.json")
    llava = find_optional(
        data, "llava_textvqa_val_v051_ocr.jsonl", "textvqa/llava_textvqa_val_v051_ocr.jsonl"
    )
    prompts = _read_ocr_prompts(llava)
    questions: list[Question] = []
    golds: dict[tuple[str, str], list[str]] = {}
    for place, record in get_records(read_json(path), "data", str(path)):
        text = get(record, "question", place, str)
        key = (get_id(record, "image_id", place), text.lower())
        if llava and key not in prompts:
            raise ValueError(
                f"{llava}: no prompt for {key[1]!r} on image {key[0]}; another version than {path}?"
            )
        number = get_id(record, "question_id", place)
        answers = get_strings(record, "answers", place)
        if len(answers) != NUM_ANNOTATORS:
            raise ValueError(f"{place}: {len(answers)} answers; {NUM_ANNOTATORS} are needed")
        prompt = prompts[key] if llava else text + SHORT
        golds[key] = answers
        questions.append(
            Question(number, prompt, key, f"{key[0]}.jpg", "", (key, number, (number, key[1])))
        )
    questions = [replace(question, gold=golds[question.gold]) for question in questions]
    notes = [] if llava else ["prompts without OCR tokens: the paper's column has them"]
    if len(questions) != PUBLISHED_SIZE:
        notes.append(f"{len(questions)} questions; validation v0.5.1 has {PUBLISHED_SIZE:,}")
    return questions, notes


def answer_key(answer: Answer) -> Hashable:
    """(image, question) as LLaVA joins, from an answer that has its prompt; else the question's number."""
    if answer.prompt is None:
        return answer.id
    try:
        return answer.id, question_of(answer.prompt)
    except ValueError as error:
        raise ValueError(f"{answer.place}: {error}") from None


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """100 times the mean soft accuracy over the answered questions."""
    samples = []
    for question, text in pairs:
        if text is None:
            continue
        golds = [normalize(answer, protocol) for answer in question.gold]
        samples.append(
            Sample(
                question.id,
                question.category,
                question.prompt,
                text,
                normalize(text, protocol),
                max(golds, key=golds.count),
                accuracy(text, question.gold, protocol),
                "VLMEvalKit normaliser" if protocol == "vlmevalkit" else "m4c normaliser",
            )
        )
    values = [sample.score for sample in samples]
    return Scores(
        "textvqa",
        protocol,
        "m4c soft accuracy",
        percent(values),
        mean_interval(values),
        {},
        samples,
        len(pairs),
        len(pairs) - len(samples),
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """The list {question_id, answer} of the TextVQA challenge."""
    rows = [
        {
            "question_id": int(question.id) if question.id.isdecimal() else question.id,
            "answer": text,
        }
        for question, text in pairs
        if text is not None
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
