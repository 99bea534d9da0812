"""Asks a model about every picture of the validation packs and prints its accuracy with 95 % intervals.

    python bench/mini_quality.py --data DIR [--model M] [--json FILE]

Packs are known by name: cifar10_*, caltech101_*, clothing_*, tiny64_* (name the thing), iiit5k_* (read the
word), nlvr_* (is the sentence true). Where the package easy-vqa is installed its test split is asked too, in
its own wording. An answer counts when it equals the expected one; case, a leading article and a final full
stop do not matter. Training packs that lie in the same directory are passed over.
"""

import argparse
import json
import math
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from record import circumstances

from vlmamba import load
from vlmamba.data.mini import VALIDATION_ONLY, class_name, easy_vqa
from vlmamba.data.packs import Pack, find_packs, open_pack


@dataclass(frozen=True)
class Question:
    """One question about one picture, and the answer that counts."""

    picture: Image.Image
    text: str
    answer: str


def naming_questions(pack: Pack) -> list[Question]:
    names = [class_name(label) for label in pack.classes]
    return [
        Question(pack.picture(k).convert("RGB"), "What is this?", names[pack.arrays["y"][k]])
        for k in range(len(pack))
    ]


def reading_questions(pack: Pack) -> list[Question]:
    texts = pack.meta["texts"]
    return [
        Question(pack.picture(k).convert("RGB"), "What does it say?", texts[pack.arrays["i"][k]])
        for k in range(len(pack))
    ]


def truth_questions(pack: Pack) -> list[Question]:
    items = pack.meta["items"]
    questions = []
    for k in range(len(pack)):
        item = items[pack.arrays["i"][k]]
        answer = "yes" if item["label"] == "true" else "no"
        text = f"Is this true? {item['sentence']}"
        questions.append(Question(pack.picture(k).convert("RGB"), text, answer))
    return questions


ASKED = {
    "cifar10": naming_questions,
    "caltech101": naming_questions,
    "clothing": naming_questions,
    "tiny64": naming_questions,
    "iiit5k": reading_questions,
    "nlvr": truth_questions,
}


def question_sets(data: Path | None) -> Iterator[tuple[str, list[Question]]]:
    """The sets at hand, one after the other."""
    for name, path in find_packs(data).items() if data else ():
        kind = name.split("_")[0]
        if kind in ASKED and any(mark in name for mark in VALIDATION_ONLY):
            yield name, ASKED[kind](open_pack(path))
    pictures, asked = easy_vqa("test")
    if asked:
        yield "easy_vqa_test", [Question(pictures[i], text, answer) for text, answer, i in asked]


def plain(answer: str) -> str:
    """An answer as it is compared: lower case, without leading article and final full stop."""
    return re.sub(r"^(a|an|the) ", "", answer.strip().rstrip(".").lower())


def wilson(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), in per cent."""
    share = right / asked
    centre = share + z * z / (2 * asked)
    spread = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    low, high = ((centre + sign * spread) / (1 + z * z / asked) for sign in (-1, 1))
    return 100 * low, 100 * high


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="directory of the packs")
    parser.add_argument("--model", help="model directory or hub id (default: the embedded mini)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument(
        "--limit", type=int, help="ask only N of every set, drawn at random (marked as partial)"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", help="cpu or cuda (default: whichever is there)")
    arguments = parser.parse_args()
    if arguments.data and not find_packs(arguments.data):
        print(f"{arguments.data} holds no packs (*.npz)", file=sys.stderr)
        return 2
    vlm = load(arguments.model, device=arguments.device)
    figures = {}
    print(f"{'set':28} {'asked':>6} {'right':>7}   95 % interval")
    for name, questions in question_sets(arguments.data):
        if arguments.limit:
            random.Random(0).shuffle(questions)  # the packs stand class by class
            questions = questions[: arguments.limit]
        answers: list[str] = []
        for at in range(0, len(questions), arguments.batch_size):
            part = questions[at : at + arguments.batch_size]
            answers += vlm.ask_many([(q.picture, q.text) for q in part])
        right = sum(plain(a) == plain(q.answer) for a, q in zip(answers, questions, strict=True))
        low, high = wilson(right, len(questions))
        share = 100 * right / len(questions)
        partial = "  (partial)" if arguments.limit else ""
        print(
            f"{name:28} {len(questions):6} {share:6.1f}%   {low:5.1f} .. {high:5.1f}{partial}",
            flush=True,
        )
        figures[name] = {
            "asked": len(questions),
            "right": right,
            "accuracy": share,
            "interval_95": [low, high],
            "partial": bool(arguments.limit),
        }
    if arguments.json:
        head = circumstances("python bench/mini_quality.py", seed=0)
        record = {**head, "model": arguments.model or "embedded", "sets": figures}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
