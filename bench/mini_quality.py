"""Asks a model about every picture of the validation packs and prints its accuracy with 95 % intervals.

    python bench/mini_quality.py --data DIR [--model M] [--json FILE] [--only SET ...]

Packs are known by name: cifar10_*, caltech101_*, clothing_*, tiny64_* (name the thing), iiit5k_* (read the word),
nlvr_* (is the sentence true). easy-VQA's test split is asked where the package is installed, Fashion-MNIST's where its
files are. Then come yes-or-no questions, half yes, about absent things of any kind or of the same kind; counting and
places on scenes of cut-outs that training never shows (pack tuxpaint_160_rgba); and wordings and unanswerable
questions that training never uses (vlmamba/eval/mini_questions.py). An answer counts when it equals the expected one;
case, a leading article and a final full stop do not matter. Training packs in the same directory are passed over.
"""

import argparse
import json
import math
import random
import sys
from pathlib import Path

from record import circumstances

from vlmamba import load
from vlmamba.data.packs import find_packs
from vlmamba.engine import Sampling
from vlmamba.eval.mini_questions import question_sets


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
    parser.add_argument("--json", type=Path, help="write the figures there, after every set")
    parser.add_argument("--only", nargs="+", help="the names of the sets to ask")
    parser.add_argument(
        "--limit", type=int, help="ask only N of every set, drawn at random (marked as partial)"
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", help="cpu or cuda (default: whichever is there)")
    arguments = parser.parse_args()
    if arguments.data and not find_packs(arguments.data):
        print(f"{arguments.data} holds no packs (*.npz)", file=sys.stderr)
        return 2
    vlm = load(arguments.model, device=arguments.device)
    head = circumstances("python bench/mini_quality.py", seed=0)
    figures = {}
    print(f"{'set':28} {'asked':>6} {'right':>7}   95 % interval")
    for name, make in question_sets(arguments.data):
        if arguments.only and name not in arguments.only:
            continue
        questions = make()
        if arguments.limit:
            random.Random(0).shuffle(questions)  # the packs stand class by class
            questions = questions[: arguments.limit]
        answers = vlm.ask_many(
            [(q.picture, q.text) for q in questions],
            Sampling(max_new_tokens=24),
            batch_size=arguments.batch_size,
        )
        right = sum(q.counts(answer) for answer, q in zip(answers, questions, strict=True))
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
            "empty": sum(not answer for answer in answers),
            "partial": bool(arguments.limit),
        }
        if arguments.json:
            record = {**head, "model": arguments.model or "embedded", "sets": figures}
            arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
