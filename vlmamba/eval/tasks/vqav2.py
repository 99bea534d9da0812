"""VQA-v2: soft accuracy against ten annotators (Table 1, column VQA-v2: test-dev, scored by EvalAI).

Offline, score val2014. Sources: `vqaEval.py` of GT-Vision-Lab/VQA, LLaVA's `convert_vqav2_for_submission.py`.
"""

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import mean_interval
from vlmamba.eval.prompts import SHORT
from vlmamba.eval.reading import (
    find,
    find_optional,
    get,
    get_id,
    get_records,
    read_json,
    read_json_lines,
)
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
from vlmamba.eval.vqa_accuracy import (
    clean_whitespace,
    normalize,
    normalize_m4c,
    normalize_vlmevalkit,
    soft_accuracy,
)

MAX_NEW_TOKENS = 128
PROTOCOLS: tuple[Protocol, ...] = ("official", "lmms-eval", "vlmevalkit")
PUBLISHED_SIZES = {
    443_757: "train2014",
    214_354: "val2014",
    447_793: "test2015",
    107_394: "test-dev2015",
}


def read_prediction(
    text: str, answers: Sequence[str], protocol: Protocol = "official"
) -> tuple[str, list[str], str]:
    """The prediction and the ten answers as they are compared, and the rule that made them so.

    Official quirk: where all ten answers are the same string, neither side is normalised, so `Yes` against ten
    `yes` scores 0 (`vqaEval.py`). lmms-eval and VLMEvalKit always normalise.
    """
    if protocol == "vlmevalkit":
        return normalize_vlmevalkit(text), [normalize_vlmevalkit(a) for a in answers], "normalised"
    if protocol == "official":
        cleaned = [clean_whitespace(answer) for answer in answers]
        if len(set(cleaned)) <= 1:
            return clean_whitespace(text), cleaned, "as written: all annotators agree"
    return normalize(text), [normalize(answer) for answer in answers], "normalised"


def accuracy(text: str, answers: Sequence[str], protocol: Protocol = "official") -> float:
    """Soft accuracy in [0, 1] of one raw prediction (`vqaEval.py`)."""
    prediction, golds, _ = read_prediction(text, answers, protocol)
    return soft_accuracy(prediction, golds)


def image_name(image_id: int, subtype: str) -> str:
    """COCO's file name: image 42 of val2014 is `COCO_val2014_000000000042.jpg`."""
    subtype = "test2015" if subtype.startswith("test") else subtype
    return f"COCO_{subtype}_{image_id:012d}.jpg"


def _read_llava_list(path: Path) -> list[Question]:
    return [
        Question(
            get_id(record, "question_id", place),
            get(record, "text", place, str),
            None,
            get(record, "image", place, str),
        )
        for place, record in read_json_lines(path)
    ]


def unasked(data: Path, pairs: Sequence[Pair]) -> list[Pair]:
    """The questions of test2015 that are not in test-dev: an upload must name them, though nobody was asked them.

    Empty unless LLaVA's `llava_vqav2_mscoco_test2015.jsonl` is there.
    """
    name = "llava_vqav2_mscoco_test2015.jsonl"
    path = find_optional(data, name, f"vqav2/{name}")
    asked = {question.id for question, _ in pairs}
    questions = _read_llava_list(path) if path else []
    return [(question, None) for question in questions if question.id not in asked]


def _read_annotations(path: Path) -> dict[str, dict[str, Any]]:
    annotations = {}
    for place, record in get_records(read_json(path), "annotations", str(path)):
        number = get_id(record, "question_id", place)
        for name in ("answer_type", "question_type"):
            get(record, name, place, str)
        # Two million answers pass here: one check for all of a question, not one for each.
        heard = get(record, "answers", place, list)
        answers = [one.get("answer") for one in heard if isinstance(one, dict)]
        if not heard or len(answers) < len(heard) or not all(isinstance(a, str) for a in answers):
            raise ValueError(f"{place}: answers must be a list of objects with a string 'answer'")
        annotations[number] = record | {"answers": answers}
    return annotations


def read(data: Path) -> tuple[list[Question], list[str]]:
    """The official questions with their annotations if there are any, else LLaVA's test-dev list (no answers)."""
    official = sorted(
        [
            *data.glob("v2_OpenEnded_mscoco_*_questions.json"),
            *data.glob("vqav2/v2_OpenEnded_mscoco_*_questions.json"),
        ]
    )
    if len(official) > 1:
        names = ", ".join(path.name for path in official)
        raise ValueError(f"{data}: several question files ({names}); keep one split in the folder")
    if not official:
        name = "llava_vqav2_mscoco_test-dev2015.jsonl"
        questions = _read_llava_list(find(data, name, f"vqav2/{name}"))
        return questions, ["test questions have no public answers: write a submission for EvalAI"]

    content = read_json(official[0])
    subtype = get(content, "data_subtype", str(official[0]), str)
    path = find_optional(official[0].parent, f"v2_mscoco_{subtype}_annotations.json")
    annotations = _read_annotations(path) if path else {}
    questions = []
    for place, record in get_records(content, "questions", str(official[0])):
        number = get_id(record, "question_id", place)
        annotation = annotations.get(number)
        questions.append(
            Question(
                number,
                get(record, "question", place, str) + SHORT,
                annotation,
                image_name(get(record, "image_id", place, int), subtype),
                annotation["answer_type"] if annotation else "",
            )
        )
    if annotations and {question.id for question in questions} != annotations.keys():
        raise ValueError(f"{path}: its questions are not those of {official[0].name}")
    published = PUBLISHED_SIZES.get(len(questions))
    if published is None:
        return questions, [
            f"{len(questions)} questions: no published split of VQA-v2 has that many"
        ]
    return questions, [f"{published}, {len(questions):,} questions"]


def answer_key(answer: Answer) -> Hashable:
    """Answers go by question_id."""
    return answer.id


def score_sample(question: Question, text: str, protocol: Protocol = "official") -> Sample:
    """One answer's evidence; the gold shown is the annotators' most frequent answer."""
    prediction, golds, rule = read_prediction(text, question.gold["answers"], protocol)
    return Sample(
        question.id,
        question.category,
        question.prompt,
        text,
        prediction,
        question.gold.get("multiple_choice_answer", max(golds, key=golds.count)),
        soft_accuracy(prediction, golds),
        rule,
    )


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """Overall, per answer type and per question type: means x 100, rounded to 2 digits (`vqaEval.py`)."""
    answered = [(question, text) for question, text in pairs if text is not None]
    if any(question.gold is None for question, _ in answered):
        raise NotScorableError(
            "these questions have no public answers; write a submission for EvalAI instead"
        )
    samples = [score_sample(question, text, protocol) for question, text in answered]
    values = [sample.score for sample in samples]
    by_answer = percent_by(samples, [q.gold["answer_type"] for q, _ in answered])
    by_question = percent_by(samples, [q.gold["question_type"] for q, _ in answered])
    return Scores(
        "vqav2",
        protocol,
        "soft accuracy",
        round(percent(values), 2),
        mean_interval(values),
        {
            "answer type": {name: round(value, 2) for name, value in by_answer.items()},
            "question type": {name: round(value, 2) for name, value in by_question.items()},
        },
        samples,
        len(pairs),
        len(pairs) - len(samples),
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """EvalAI's list: every question of the split, m4c-normalised, "" where nothing was answered.

    Source: LLaVA's `convert_vqav2_for_submission.py`. The server refuses a list whose ids are not the split's.
    """
    rows = [
        {"question_id": int(question.id), "answer": "" if text is None else normalize_m4c(text)}
        for question, text in pairs
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
