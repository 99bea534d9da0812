"""Times the scoring of a VQA-v2 answer file of validation size, from the files to scores with evidence.

    python bench/score_throughput.py [--questions 214354] [--json results/score_throughput.json]

The data are made up: questions and annotations in the official layout, answers as LLaVA writes them. In the `usual`
arm answers come from a vocabulary in which few words make most of the answers, as people's do; in the `worst` arm
every answer is another string with punctuation, so that nothing normalised once can be used again.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import circumstances

from vlmamba.eval.score import score_file

SEED = 0
TARGET_S = 60.0
NUM_ANNOTATORS = 10
VOCABULARY = 30_000
TYPES = {"yes/no": 0.38, "number": 0.13, "other": 0.49}


def make_word(number: int) -> str:
    """A made-up answer; every seventh has punctuation, every eleventh an article."""
    word = "".join("abcdefghijklmnop"[int(digit, 16)] for digit in f"{number:x}")
    if number % 7 == 0:
        word = f"{word}/{word}, no."
    return f"a {word}" if number % 11 == 0 else word


def write_data(folder: Path, num_questions: int, arm: str) -> Path:
    """Questions, annotations and answers; returns the answer file."""
    rng = random.Random(SEED)
    words = ["yes", "no", "1", "two", *map(make_word, range(VOCABULARY))]
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(words))))
    questions, annotations = [], []
    with (folder / "answers.jsonl").open("w", encoding="utf-8") as answers:
        for number in range(num_questions):
            if arm == "usual":
                said, *heard = rng.choices(words, cum_weights=weights, k=3)
                texts = [rng.choice(heard) for _ in range(NUM_ANNOTATORS)]
            else:
                said = f"{make_word(number)} (x-{number}), it's 3."
                texts = [f"the {number}-{k}/{make_word(number)}!" for k in range(NUM_ANNOTATORS)]
            questions.append({"question_id": number, "image_id": number // 5, "question": "What?"})
            kind = rng.choices(list(TYPES), list(TYPES.values()))[0]
            annotation = {
                "question_id": number,
                "image_id": number // 5,
                "question_type": f"type {number % 65}",
                "answer_type": kind,
                "multiple_choice_answer": texts[0],
                "answers": [
                    {"answer": text, "answer_confidence": "yes", "answer_id": k}
                    for k, text in enumerate(texts, start=1)
                ],
            }
            annotations.append(annotation)
            record = {"question_id": number, "prompt": "What?", "text": said, "metadata": {}}
            answers.write(json.dumps(record) + "\n")
    for name, content in (
        (
            "v2_OpenEnded_mscoco_val2014_questions.json",
            {"data_subtype": "val2014", "questions": questions},
        ),
        ("v2_mscoco_val2014_annotations.json", {"annotations": annotations}),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder / "answers.jsonl"


def time_arm(num_questions: int, arm: str) -> dict[str, float]:
    """Seconds from the files to the scores, and the score itself."""
    with tempfile.TemporaryDirectory() as name:
        answers = write_data(Path(name), num_questions, arm)
        start, cpu_start = time.perf_counter(), time.process_time()
        scores = score_file("vqav2", answers, Path(name))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    if len(scores.samples) != num_questions:
        raise AssertionError(f"{len(scores.samples)} of {num_questions} answers were scored")
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "score": scores.value,
    }


def main() -> int:
    """Prints and records both arms; 1 where one misses the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=214_354)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()
    # The arms run in processes of their own, so that none finds the other's answers normalised.
    arms = {}
    for arm in ("usual", "worst"):
        code = f"import score_throughput as s, json; print(json.dumps(s.time_arm({arguments.questions}, {arm!r})))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        arms[arm] = json.loads(done.stdout)
        print(
            f"{arm}: {arguments.questions:,} answers in {arms[arm]['seconds']} s, "
            f"{arms[arm]['cpu_seconds']} s of it on the CPU (target {TARGET_S:.0f} s)"
        )
    record = {
        **circumstances("python bench/score_throughput.py", SEED),
        "what": "VQA-v2 scoring, files to scores with evidence and interval, one process",
        "questions": arguments.questions,
        "target_s": TARGET_S,
        "arms": arms,
        "load_average_before": [round(load, 1) for load in load],
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(any(arm["seconds"] > TARGET_S for arm in arms.values()))


if __name__ == "__main__":
    sys.exit(main())
