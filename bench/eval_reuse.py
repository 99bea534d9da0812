"""Times answering a benchmark with ten questions a picture: each picture read once, against once a question.

    python bench/eval_reuse.py [--model M] [--device D] [--pictures 12] [--questions 10] [--rounds 9] [--json FILE]

Both arms go through the runner of `vlmamba eval`, from picture files to answers on disk, in batches of the same
number of questions; in one a picture's questions share the state that it left, in the other each question has the
picture to itself. The arms take turns after a round that does not count, and the ratio is the median over the
rounds. The answers must be the same, token for token; a record of what is not is no record.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from vlmamba import __version__, load
from vlmamba.eval.journal import Journal
from vlmamba.eval.plan import Album
from vlmamba.eval.processes import Processes
from vlmamba.eval.prompts import SHORT
from vlmamba.eval.runner import Plan, Settings, answer
from vlmamba.eval.task import Question
from vlmamba.vlm import VLM

SEED = 0
TARGET = 3.0
THINGS = "cat dog car bird tree boat chair apple clock house horse plane bottle shoe train".split()
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")


def draw_pictures(folder: Path, count: int) -> list[Path]:
    """Shapes in colours on noise, as JPEG files of a usual size."""
    generator = np.random.default_rng(SEED)
    paths = []
    for number in range(count):
        picture = Image.fromarray(generator.integers(0, 255, (480, 640, 3), np.uint8))
        draw = ImageDraw.Draw(picture)
        for _ in range(4):
            x, y = generator.integers(0, 400, 2).tolist()
            draw.ellipse((x, y, x + 200, y + 80), fill=COLOURS[generator.integers(len(COLOURS))])
        paths.append(folder / f"{number}.jpg")
        picture.save(paths[-1])
    return paths


def make_albums(paths: list[Path], num_questions: int, together: bool) -> list[Album]:
    """POPE's questions about each picture, all in one album or each in one of its own."""
    albums = []
    for path in paths:
        questions = tuple(
            Question(
                f"{path.stem}.{k}",
                f"Is there a {THINGS[k % len(THINGS)]} in the image?{SHORT}",
                None,
            )
            for k in range(num_questions)
        )
        albums += [Album(path, q) for q in ([questions] if together else [(q,) for q in questions])]
    return albums


def time_arm(vlm: VLM, albums: list[Album], settings: Settings) -> tuple[float, dict[str, str]]:
    """Seconds from picture files to the answers on disk, and the answers."""
    plan = Plan("pope", albums, [], {"max_new_tokens": settings.max_new_tokens})
    start = time.perf_counter()
    answer(vlm, plan, settings, "bench", Processes(), quiet=True)
    if vlm.model.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    answers = Journal(settings.out / "pope").read()
    return seconds, {number: record["text"] for number, record in answers.items()}


def main() -> int:
    """Prints and records both arms; 1 where answers differ or the target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", help="model directory or hub id (default: the embedded mini)")
    parser.add_argument("--device", help="cpu or cuda (default: whichever is there)")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load_average = os.getloadavg()
    vlm = load(arguments.model, device=arguments.device)
    seconds: dict[str, list[float]] = {"once a picture": [], "once a question": []}
    answers: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        paths = draw_pictures(Path(name), arguments.pictures)
        for number in range(arguments.rounds + 1):
            for arm in seconds:
                albums = make_albums(paths, arguments.questions, arm == "once a picture")
                settings = Settings(
                    Path(name),
                    Path(name) / f"{number}-{arm}",
                    batch_size=arguments.batch_size,
                    max_new_tokens=arguments.max_new_tokens,
                )
                taken, answers[arm] = time_arm(vlm, albums, settings)
                if number:
                    seconds[arm].append(taken)
    once, each = seconds.values()
    ratios = [slow / fast for fast, slow in zip(once, each, strict=True)]
    num_different = sum(
        text != answers["once a question"][number]
        for number, text in answers["once a picture"].items()
    )
    asked = arguments.pictures * arguments.questions
    ratio = statistics.median(ratios)
    print(f"{asked} questions, {arguments.questions} a picture, on {vlm.model.device}")
    for arm, taken in seconds.items():
        print(f"  read {arm:16} {asked / statistics.median(taken):8.1f} answers a second")
    print(f"  ratio {ratio:.2f} (target {TARGET}); {num_different} answers differ")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    on_gpu = vlm.model.device.type == "cuda"
    record = {
        "what": "answers a second of vlmamba eval, each picture read once against once a question",
        "model": arguments.model or "the embedded mini model",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "pictures": arguments.pictures,
        "questions_a_picture": arguments.questions,
        "batch_size": arguments.batch_size,
        "max_new_tokens": arguments.max_new_tokens,
        "different_answers": len(set(answers["once a picture"].values())),
        "answers_that_differ_between_arms": num_different,
        "ratio": round(ratio, 2),
        "ratios": [round(value, 2) for value in ratios],
        "target": TARGET,
        "seed": SEED,
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load_average_before": [round(value, 1) for value in load_average],
        "versions": {
            "vlmamba": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    if on_gpu:  # on the CPU only ratios are stated
        record["answers_per_s"] = {
            arm: round(asked / statistics.median(taken), 1) for arm, taken in seconds.items()
        }
    if arguments.json:
        records = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        records[vlm.model.device.type] = record
        arguments.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return int(num_different > 0 or ratio < TARGET)


if __name__ == "__main__":
    sys.exit(main())
