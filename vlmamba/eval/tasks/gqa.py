"""GQA: exact match on testdev-balanced (Table 1, column GQA).

Sources: Stanford's `eval.py` in the variant that does without choices and scene graphs, and LLaVA's
`convert_gqa_for_eval.py`.
"""

import json
import string
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import mean_interval
from vlmamba.eval.prompts import SHORT
from vlmamba.eval.reading import find, get, get_records, read_objects
from vlmamba.eval.task import Pair, Protocol, Question, Sample, Scores, percent

MAX_NEW_TOKENS = 128
PROTOCOLS: tuple[Protocol, ...] = ("official", "lmms-eval", "vlmevalkit")
PUBLISHED_SIZES = {12_578: "testdev_balanced", 172_174: "testdev_all"}
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def convert(text: str) -> str:
    """LLaVA's prediction string: trailing full stops off, lower case, nothing else (`convert_gqa_for_eval.py`)."""
    return text.rstrip(".").lower()


def is_correct(text: str, answer: str, protocol: Protocol = "official") -> bool:
    """Officially equality of the converted text; lmms-eval drops case and ASCII punctuation on both sides after
    stripping; VLMEvalKit strips and lower-cases."""
    if protocol == "lmms-eval":
        prediction, gold = (s.lower().translate(_NO_PUNCTUATION) for s in (text.strip(), answer))
        return prediction == gold
    if protocol == "vlmevalkit":
        return text.strip().lower() == answer.strip().lower()
    return convert(text) == answer


def count_words(question: Mapping[str, Any]) -> int:
    """Words of the question between white space."""
    return len(question["question"].split())


def count_steps(question: Mapping[str, Any]) -> int:
    """Reasoning steps: operations other than the final asking ones (`getStepsNum`)."""
    steps = (f"{step['operation']}: {step['argument']}" for step in question["semantic"])
    asking = ("exist", "query: name", "choose name")
    return sum(not any(words in step for words in asking) for step in steps)


def distribution(golds: Sequence[tuple[str | None, str, str]]) -> float | None:
    """Chi-square of gold against predicted answer counts, by global group, weighted by its size, over 100.

    `golds` are (group, gold, prediction); lower is better. None without any group, where `eval.py` fails.
    """
    gold_counts: dict[str, Counter[str]] = {}
    predicted_counts: dict[str, Counter[str]] = {}
    for group, gold, prediction in golds:
        if group is not None:
            gold_counts.setdefault(group, Counter())[gold] += 1
            predicted_counts.setdefault(group, Counter())[prediction] += 1
    total = weighted = 0.0
    for group, counts in gold_counts.items():
        size = counts.total()
        predicted = predicted_counts[group]
        weighted += size * sum((predicted[gold] - n) ** 2 / n for gold, n in counts.items())
        total += size
    return weighted / total / 100 if total else None


def evaluate(
    questions: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, str],
    protocol: Protocol = "official",
) -> dict[str, Any]:
    """All of `eval.py`'s numbers over the balanced questions, from raw texts by question id.

    Type maps hold (percentage, count). Raises ValueError for a balanced question without a prediction.
    """
    balanced = {qid: question for qid, question in questions.items() if question["isBalanced"]}
    missing = [qid for qid in balanced if qid not in predictions]
    if missing:
        raise ValueError(f"{len(missing)} questions have no prediction, {missing[0]} first")
    correct = {
        qid: float(is_correct(predictions[qid], question["answer"], protocol))
        for qid, question in balanced.items()
    }
    groups: dict[str, dict[Any, list[float]]] = {
        name: {} for name in ("structural", "semantic", "words", "steps")
    }
    binary, open_ = [], []
    for qid, question in balanced.items():
        (open_ if question["types"]["structural"] == "query" else binary).append(correct[qid])
        for name, group in (
            ("structural", question["types"]["structural"]),
            ("semantic", question["types"]["semantic"]),
            ("words", count_words(question)),
            ("steps", count_steps(question)),
        ):
            groups[name].setdefault(group, []).append(correct[qid])
    tables = {
        name: {group: (percent(scores), len(scores)) for group, scores in table.items()}
        for name, table in groups.items()
    }
    return {
        "accuracy": percent(list(correct.values())),
        "binary": percent(binary),
        "open": percent(open_),
        "distribution": distribution(
            [
                (q["groups"].get("global"), q["answer"], convert(predictions[i]))
                for i, q in balanced.items()
            ]
        ),
        **tables,
    }


def read(data: Path) -> tuple[list[Question], list[str]]:
    """The balanced questions of `testdev_balanced_questions.json`."""
    path = find(
        data,
        "testdev_balanced_questions.json",
        "data/testdev_balanced_questions.json",
        "data/questions1.2/testdev_balanced_questions.json",
        "gqa/data/questions1.2/testdev_balanced_questions.json",
        "gqa/data/testdev_balanced_questions.json",
        "gqa/testdev_balanced_questions.json",
    )
    questions = []
    for place, number, record in read_objects(path):
        if not get(record, "isBalanced", place, bool):
            continue
        text = get(record, "question", place, str)
        get(record, "answer", place, str)
        types = get(record, "types", place, dict)
        get(types, "semantic", place, str)
        group = get(record, "groups", place, dict).get("global")
        if group is not None and not isinstance(group, str):
            raise ValueError(
                f"{place}: the global group must be a string or null, not {group!r:.60}"
            )
        for at, step in get_records(record, "semantic", place):
            get(step, "operation", at, str)
            get(step, "argument", at, str)
        image = f"{get(record, 'imageId', place, str)}.jpg"
        structural = get(types, "structural", place, str)
        questions.append(Question(number, text + SHORT, record, image, structural))
    published = PUBLISHED_SIZES.get(len(questions))
    if published is None:
        return questions, [f"{len(questions)} balanced questions; testdev_balanced has 12,578"]
    return questions, [f"{published}, {len(questions):,} questions"]


def answer_key(answer: Answer) -> Hashable:
    """Answers go by question id."""
    return answer.id


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """Accuracy over the answered balanced questions (`eval.py` itself refuses an incomplete list)."""
    answered = [(question, text) for question, text in pairs if text is not None]
    samples = [
        Sample(
            question.id,
            question.category,
            question.prompt,
            text,
            convert(text) if protocol == "official" else text.strip().lower(),
            question.gold["answer"],
            float(is_correct(text, question.gold["answer"], protocol)),
            "exact match",
        )
        for question, text in answered
    ]
    result = evaluate(
        {question.id: question.gold for question, _ in answered},
        {question.id: text for question, text in answered},
        protocol,
    )
    whole = {name: result[name] for name in ("accuracy", "binary", "open", "distribution")}
    tables = {name: result[name] for name in ("structural", "semantic", "words", "steps")}
    return Scores(
        "gqa",
        protocol,
        "accuracy",
        result["accuracy"],
        mean_interval([sample.score for sample in samples]),
        {"all": whole, **tables},
        samples,
        len(pairs),
        len(pairs) - len(samples),
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """`testdev_balanced_predictions.json` for `eval.py` (LLaVA's `convert_gqa_for_eval.py`)."""
    rows = [
        {"questionId": question.id, "prediction": convert(text)}
        for question, text in pairs
        if text is not None
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
