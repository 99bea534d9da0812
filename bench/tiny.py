"""Trains the recipe `tiny` and asks the model about pictures it has never seen.

    python bench/tiny.py [--threads 2] [--questions 300] [--json results/tiny.json]

Prints exact answers by kind of question, beside what the most frequent answer of each kind would score.
"""

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import torch
from record import circumstances

from vlmamba import load
from vlmamba.recipes import tiny
from vlmamba.train import run

FIRST_UNSEEN = 1_000_000  # far beyond the pictures that the recipe trains on


def kind_of(answer: str, colours: tuple[str, ...], shapes: tuple[str, ...]) -> str:
    if answer in ("yes", "no"):
        return "yes or no"
    if answer in colours + tiny().stages[-1].data.drawing.backgrounds:  # type: ignore[attr-defined]
        return "colour"
    return "shape" if answer in shapes else "description"


def measure(directory: Path, questions: int) -> dict[str, dict[str, float]]:
    """Exact answers, by kind of question, of the model in `directory`."""
    vlm = load(directory)
    drawing = tiny().stages[-1].data.drawing  # type: ignore[attr-defined]
    asked = []
    for index in range(FIRST_UNSEEN, FIRST_UNSEEN + questions):
        question, answer = drawing.dialogue(index)[0]
        asked.append((drawing.picture(index), question, answer))
    told = vlm.ask_many([(picture, question) for picture, question, _ in asked])
    right, wanted = defaultdict(list), defaultdict(Counter)
    for (_, _, answer), said in zip(asked, told, strict=True):
        kind = kind_of(answer, drawing.colours, drawing.shapes)
        right[kind].append(said == answer)
        wanted[kind][answer] += 1
    return {
        kind: {
            "questions": len(answers),
            "right": sum(answers) / len(answers),
            "most frequent answer": max(wanted[kind].values()) / len(answers),
        }
        for kind, answers in sorted(right.items())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--json", type=Path, help="where the record goes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as directory:
        run("tiny", output=Path(directory) / "model")
        found = measure(Path(directory) / "model", arguments.questions)
    for kind, figures in found.items():
        print(
            f"{kind:14}{figures['right']:7.1%} of {figures['questions']:.0f}, "
            f"the most frequent answer {figures['most frequent answer']:.1%}"
        )
    if arguments.json:
        head = circumstances("python bench/tiny.py", tiny().seed)
        record = {**head, "threads": arguments.threads, "exact answers": found}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
