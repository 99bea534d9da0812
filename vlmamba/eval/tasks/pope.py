"""POPE: is the object there? (Table 1, column POPE: the unweighted mean of three F1 scores, x 100).

Sources: LLaVA's `eval_pope.py`, which is RUCAIBox/POPE's `evaluate.py`. Both pair answers with labels by position;
here they are paired by question, so that lists of different versions cannot be mixed unseen.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import bootstrap_interval
from vlmamba.eval.prompts import SHORT
from vlmamba.eval.reading import find, find_optional, get, get_id, read_json_lines
from vlmamba.eval.task import Pair, Protocol, Question, Sample, Scores
from vlmamba.eval.yes_no import find_yes_or_no

MAX_NEW_TOKENS = 128
PROTOCOLS: tuple[Protocol, ...] = ("official", "lmms-eval", "vlmevalkit")
# LLaVA numbers the three lists apart; the label files each count from 1.
FIRST_ID = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}


def parse(text: str, protocol: Protocol = "official") -> str:
    """The official reading: what stands before the first full stop, commas deleted, split at single spaces; `no`
    if one piece is exactly No, no or not, else `yes` (so `NO`, `no!` and an empty answer are yes).

    lmms-eval: the stripped, lower-cased text itself. VLMEvalKit: yes, no or unknown by word search.
    """
    if protocol == "lmms-eval":
        return text.lower().strip()
    if protocol == "vlmevalkit":
        return find_yes_or_no(text).lower()
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def metrics(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """TP, FP, TN, FN, accuracy, precision, recall, f1 and yes_ratio (fractions) of one category.

    Precision, recall and F1 are 0 where the public scorer divides by zero (nothing said yes to, or no true yes).
    A prediction that is neither yes nor no (other protocols) is wrong and stands in none of the four counts.
    """
    pairs = list(zip(predictions, labels, strict=True))
    tp, fp, tn, fn = (
        pairs.count(kind) for kind in (("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "yes"))
    )
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return {
        "TP": tp,
        "FP": fp,
        "TN": tn,
        "FN": fn,
        "accuracy": (tp + tn) / len(pairs) if pairs else 0.0,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_ratio": (tp + fp) / len(pairs) if pairs else 0.0,
    }


def _read_labels(path: Path, category: str) -> list[Question]:
    return [
        Question(
            str(FIRST_ID[category] + get(record, "question_id", place, int)),
            get(record, "text", place, str) + SHORT,
            get(record, "label", place, str),
            get(record, "image", place, str),
            category,
        )
        for place, record in read_json_lines(path)
    ]


def _key(category: str, image: object, text: str) -> tuple[str, object, str]:
    """What a question is known by. Today's lists have mended the word "imange" of the older ones."""
    return category, image, text.replace("imange", "image")


def _with_llava_ids(questions: list[Question], path: Path) -> list[Question]:
    """The questions under the ids of LLaVA's list, found by (category, image, text)."""
    by_text: dict[tuple[str, object, str], list[Question]] = {}
    for question in questions:
        key = _key(question.category, question.image, question.prompt)
        by_text.setdefault(key, []).append(question)
    renamed = []
    for place, record in read_json_lines(path):
        key = _key(*(get(record, name, place, str) for name in ("category", "image", "text")))
        if not by_text.get(key):
            raise ValueError(
                f"{place}: {key[2].split(SHORT)[0]!r} is not among the {key[0]} labels: the label files and "
                f"LLaVA's list are of different versions (2,910 random questions in LLaVA's, 3,000 in today's)"
            )
        question = by_text[key].pop(0)
        name = get_id(record, "question_id", place)
        renamed.append(replace(question, id=name, prompt=record["text"], keys=(name,)))
    left = [question for same in by_text.values() for question in same]
    if left:
        raise ValueError(
            f"{path}: it lacks {len(left)} questions of the label files ({left[0].category}, {left[0].image} first): "
            f"different versions (2,910 random questions in LLaVA's, 3,000 in today's POPE repository)"
        )
    return renamed


def read(data: Path) -> tuple[list[Question], list[str]]:
    """The three label files, with LLaVA's ids where `llava_pope_test.jsonl` lies beside them."""
    questions: list[Question] = []
    sizes = {}
    for category in FIRST_ID:
        name = f"coco_pope_{category}.json"
        path = find(
            data, name, f"coco/{name}", f"pope/coco/{name}", f"pope/{name}", f"output/coco/{name}"
        )
        labelled = _read_labels(path, category)
        for question in labelled:
            if question.gold not in ("yes", "no"):
                raise ValueError(
                    f"{path}: label {question.gold!r} of {question.id} is neither yes nor no"
                )
        sizes[category] = len(labelled)
        questions += labelled
    llava = find_optional(data, "llava_pope_test.jsonl", "pope/llava_pope_test.jsonl")
    if llava:
        questions = _with_llava_ids(questions, llava)
    versions = {
        (3000, 2910, 3000): "LLaVA's lists: 2,910 random, 3,000 popular, 3,000 adversarial",
        (3000, 3000, 3000): "today's lists of 3,000 each; the paper's random list has 2,910",
    }
    sized = tuple(sizes.values())
    unknown = f"{', '.join(f'{n} {c}' for c, n in sizes.items())}: no published version of POPE"
    return questions, [versions.get(sized, unknown)]


def answer_key(answer: Answer) -> Hashable:
    """Answers go by LLaVA's question_id."""
    return answer.id


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """Per category and the mean of the F1 scores x 100; the other protocols print the F1 of all pooled."""
    samples = [
        Sample(
            q.id,
            q.category,
            q.prompt,
            text,
            said,
            q.gold,
            float(said == q.gold),
            "yes unless no/not",
        )
        for q, text in pairs
        if text is not None
        for said in [parse(text, protocol)]
    ]
    categories = list(dict.fromkeys(sample.category for sample in samples))
    members = {name: [s for s in samples if s.category == name] for name in categories}
    tables = {
        name: metrics([s.parsed for s in group], [s.gold for s in group])
        for name, group in members.items()
    }
    # TP, FP and FN, one column each: all that F1 needs.
    kinds = (("yes", "yes"), ("yes", "no"), ("no", "yes"))
    strata = [
        np.array([[(s.parsed, s.gold) == kind for kind in kinds] for s in group], float)
        for group in members.values()
    ]
    if protocol != "official":
        strata = [np.concatenate(strata)]
        tables["all"] = metrics([s.parsed for s in samples], [s.gold for s in samples])

    def mean_f1(means: list[np.ndarray]) -> np.ndarray:
        f1 = [2 * m[:, 0] / np.maximum(2 * m[:, 0] + m[:, 1] + m[:, 2], 1e-12) for m in means]
        return 100 * np.mean(f1, axis=0)

    if protocol == "official":
        value = 100 * float(np.mean([tables[name]["f1"] for name in categories]))
    else:
        value = 100 * tables["all"]["f1"]
    return Scores(
        "pope",
        protocol,
        "mean F1 of the categories" if protocol == "official" else "F1, categories pooled",
        value,
        bootstrap_interval(strata, mean_f1),
        tables,
        samples,
        len(pairs),
        len(pairs) - len(samples),
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """JSON lines {question_id, text} as `eval_pope.py` reads them, in the order of the questions."""
    rows = [
        json.dumps({"question_id": int(question.id), "text": text})
        for question, text in pairs
        if text is not None
    ]
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
