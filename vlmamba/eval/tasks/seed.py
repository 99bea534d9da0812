"""SEED-Bench v1: multiple choice on images and videos; Table 1's SEED column.

The paper does not say whether its number is over all questions or the images; both are given, and both are in the
tables of others. Source: LLaVA's `convert_seed_for_submission.py`.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import mean_interval
from vlmamba.eval.prompts import LETTER, lettered
from vlmamba.eval.reading import (
    find,
    find_optional,
    get,
    get_id,
    get_records,
    read_json,
    read_json_lines,
)
from vlmamba.eval.task import Pair, Protocol, Question, Sample, Scores, percent, percent_by

MAX_NEW_TOKENS = 128
PROTOCOLS: tuple[Protocol, ...] = ("official", "lmms-eval")
PUBLISHED_NUM_IMAGES = 14_233
LLAVA_SIZE = 19_242


def is_correct(text: str, answer: str, protocol: Protocol = "official") -> bool:
    """Officially the text is the letter and nothing else (`A.` is wrong); lmms-eval takes the first character of
    the stripped text, in either case (`Apple` is A)."""
    if protocol == "lmms-eval":
        return text.strip()[:1].lower() == answer.lower()
    return text == answer


def _key(number: str | int) -> str:
    """Ids are compared as numbers where they are numbers."""
    try:
        return str(int(number))
    except ValueError:
        return str(number)


def evaluate(
    annotation: Mapping[str, Any],
    predictions: Mapping[str | int, str],
    protocol: Protocol = "official",
) -> dict[str, Any]:
    """total, image, video and per_type percentages; a question without a prediction is wrong.

    0 for a kind without questions or a type without a right answer, where the script fails.
    """
    texts = {_key(number): text for number, text in predictions.items()}
    names = {number: name for name, number in annotation["question_type"].items()}
    correct = [
        float(is_correct(texts.get(_key(q["question_id"]), ""), q["answer"], protocol))
        for q in annotation["questions"]
    ]
    kinds: dict[str, list[float]] = {"image": [], "video": []}
    types: dict[int, list[float]] = {}
    for question, value in zip(annotation["questions"], correct, strict=True):
        kinds.setdefault(question["data_type"], []).append(value)
        types.setdefault(question["question_type_id"], []).append(value)
    return {
        "total": percent(correct),
        "image": percent(kinds["image"]),
        "video": percent(kinds["video"]),
        "per_type": {names[number]: percent(types[number]) for number in sorted(types)},
    }


def prompt(question: Mapping[str, Any]) -> str:
    """The question, its four lettered choices, and the request for the letter."""
    choices = [question[f"choice_{letter}"] for letter in "abcd"]
    return question["question"] + lettered(choices) + LETTER


def _image_of(question: Mapping[str, Any]) -> str:
    """LLaVA's folders: pictures by data_id, videos by their middle frame."""
    if question["data_type"] == "image":
        return f"SEED-Bench-image/{question.get('data_id')}"
    return f"SEED-Bench-video-image/{question['question_type_id']}_{question['question_id']}.png"


def read(data: Path) -> tuple[list[Question], list[str]]:
    """`SEED-Bench.json`, with the picture paths of LLaVA's list where it lies beside it."""
    path = find(data, "SEED-Bench.json", "seed_bench/SEED-Bench.json")
    annotation = read_json(path)
    types = get(annotation, "question_type", str(path), dict)
    names = {number: name for name, number in types.items()}
    llava = find_optional(data, "llava-seed-bench.jsonl", "seed_bench/llava-seed-bench.jsonl")
    images: dict[str, str] = {}
    if llava:
        images = {
            _key(get_id(record, "question_id", place)): get(record, "image", place, str)
            for place, record in read_json_lines(llava)
        }
    questions = []
    for place, record in get_records(annotation, "questions", str(path)):
        name = _key(get_id(record, "question_id", place))
        for needed in ("question", "choice_a", "choice_b", "choice_c", "choice_d", "answer"):
            get(record, needed, place, str)
        kind, type_id = record.get("data_type"), get(record, "question_type_id", place, int)
        if kind not in ("image", "video"):
            raise ValueError(f"{place}: data_type must be image or video, not {kind!r:.60}")
        if type_id not in names:
            raise ValueError(f"{place}: no question_type {type_id} in this file")
        image = images.get(name) or _image_of(record)
        questions.append(Question(name, prompt(record), record, image, names[type_id]))
    ids = {question.id for question in questions}
    if images and ids != images.keys():
        raise ValueError(
            f"{llava}: {len(images.keys() - ids):,} of its {len(images):,} questions are not in {path} and "
            f"{len(ids - images.keys()):,} are the other way round: use the revision of SEED-Bench.json that goes "
            f"with LLaVA's list ({LLAVA_SIZE:,} questions; today's has fewer videos)"
        )
    num_images = sum(question.gold["data_type"] == "image" for question in questions)
    size = f"{len(questions):,} questions, {num_images:,} on images"
    if num_images == PUBLISHED_NUM_IMAGES:
        return questions, [size]
    return questions, [f"{size}; SEED-Bench v1 has {PUBLISHED_NUM_IMAGES:,} on images"]


def answer_key(answer: Answer) -> Hashable:
    """Answers go by question id, as a number where it is one."""
    return _key(answer.id)


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """Accuracy over all questions, images, videos and types; a missing answer is wrong.

    Where no video question was answered at all, only the image accuracy is given.
    """
    images_alone = all(t is None for q, t in pairs if q.gold["data_type"] != "image")
    scored = [(q, t) for q, t in pairs if q.gold["data_type"] == "image" or not images_alone]
    samples = [
        Sample(
            question.id,
            question.category,
            question.prompt,
            text,
            text or "" if protocol == "official" else (text or "").strip()[:1].upper(),
            question.gold["answer"],
            float(is_correct(text or "", question.gold["answer"], protocol)),
            "the letter alone" if protocol == "official" else "first character",
        )
        for question, text in scored
    ]
    values = [sample.score for sample in samples]
    table = percent_by(samples, [question.gold["data_type"] for question, _ in scored])
    if not images_alone:
        table["all"] = percent(values)
    return Scores(
        "seed",
        protocol,
        "accuracy, images" if images_alone else "accuracy, images and videos",
        percent(values),
        mean_interval(values),
        {"kind": table, "type": percent_by(samples, [sample.category for sample in samples])},
        samples,
        len(scored),
        sum(text is None for _, text in scored),
        ["only the questions on images were answered"] if images_alone else [],
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """JSON lines {question_id, prediction}, ids as in `SEED-Bench.json`."""
    rows = [
        json.dumps({"question_id": question.gold["question_id"], "prediction": text})
        for question, text in pairs
        if text is not None
    ]
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
