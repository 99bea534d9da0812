"""One benchmark on one process and spread over several: the answers and scores must be the same.

    python bench/eval_spread.py --pack caltech101_dev_128.npz [--model M] [--processes 2] [--device D] [--json FILE]

The benchmark is made up from the pictures of a pack, in POPE's official files: about each picture six questions, half
of them about what it shows, the others about random, popular and adversarial absentees. One process answers it, then
torchrun spreads it over several, each on its own GPU where there are any. Exits 1 where one answer or score differs.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from record import circumstances

from vlmamba.data.dialogues import with_article
from vlmamba.data.packs import open_pack
from vlmamba.data.photos import class_name

SEED = 0
LISTS = ("random", "popular", "adversarial")


def write_benchmark(pack_path: Path, folder: Path, num_pictures: int) -> int:
    """POPE's three lists and their pictures; returns the number of questions."""
    pack, rng = open_pack(pack_path), random.Random(SEED)
    names = [class_name(label) for label in pack.classes]
    shown = [names[k] for k in pack.arrays["y"]]
    frequent = [name for name, _ in Counter(shown).most_common(10)]
    chosen = sorted(rng.sample(range(len(pack)), min(num_pictures, len(pack))))
    lists: dict[str, list[dict]] = {kind: [] for kind in LISTS}
    (folder / "val2014").mkdir(parents=True)
    (folder / "coco").mkdir()
    for k in chosen:
        file = f"COCO_val2014_{k:012d}.jpg"
        pack.picture(k).convert("RGB").save(folder / "val2014" / file, quality=95)
        others = [name for name in names if name != shown[k]]
        same_letter = [name for name in others if name[0] == shown[k][0]]
        absent = {
            "random": rng.choice(others),
            "popular": rng.choice([name for name in frequent if name != shown[k]]),
            "adversarial": rng.choice(same_letter or others),
        }
        for kind, rows in lists.items():
            for name, label in ((shown[k], "yes"), (absent[kind], "no")):
                text = f"Is there {with_article(name)} in the image?"
                rows.append(
                    {"question_id": len(rows) + 1, "image": file, "text": text, "label": label}
                )
    for kind, rows in lists.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "coco" / f"coco_pope_{kind}.json").write_text(lines)
    return sum(map(len, lists.values()))


def evaluate(data: Path, out: Path, processes: int, arguments: argparse.Namespace) -> float:
    """Runs `vlmamba eval pope`; returns its seconds."""
    command = [sys.executable, "-m", "vlmamba"]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes), "-m", "vlmamba"]
    command += ["eval", "pope", "--data", str(data), "-o", str(out)]
    command += ["--batch-size", str(arguments.batch_size)]
    for option in ("model", "device"):
        if getattr(arguments, option):
            command += [f"--{option}", getattr(arguments, option)]
    threads = max(1, (os.cpu_count() or 1) // processes)
    start = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    return time.perf_counter() - start


def answers(out: Path) -> dict[str, str]:
    """The raw answers of a run by question."""
    lines = (out / "pope" / "answers.jsonl").read_text().splitlines()
    return {record["question_id"]: record["text"] for record in map(json.loads, lines)}


def main() -> int:
    """Prints and records both runs; 1 where they differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True, help="a pack of named pictures (*.npz)")
    parser.add_argument("--model", help="model directory or hub id (default: the embedded mini)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--device", help="cpu or cuda (default: each process's own GPU)")
    parser.add_argument("--keep", type=Path, help="keep data and both runs in this new folder")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = arguments.keep or Path(name)
        asked = write_benchmark(arguments.pack, root / "data", arguments.pictures)
        runs = {n: root / f"processes-{n}" for n in (1, arguments.processes)}
        seconds = {n: evaluate(root / "data", out, n, arguments) for n, out in runs.items()}
        said = {n: answers(out) for n, out in runs.items()}
        scores = {
            n: json.loads((out / "pope" / "scores.json").read_text()) for n, out in runs.items()
        }
    one, many = said.values()
    differing = sum(one[number] != many.get(number) for number in one) + len(many) - len(one)
    same_scores = scores[1] == scores[arguments.processes]
    value = scores[1]["value"]
    print(f"{asked} questions, POPE-like score {value:.2f}; {differing} answers differ")
    print(f"scores equal to the last bit: {same_scores}")
    for n, taken in seconds.items():
        print(f"  {n} process(es): {taken:.1f} s, start and model loading included")
    record = {
        **circumstances("python bench/eval_spread.py", SEED),
        "pack": arguments.pack.stem,
        "model": arguments.model or "embedded",
        "questions": asked,
        "score": value,
        "processes": arguments.processes,
        "answers_that_differ": differing,
        "scores_equal": same_scores,
    }
    if record["hardware"]["gpu"]:  # on the CPU only ratios are stated
        record["seconds"] = {str(n): round(taken, 1) for n, taken in seconds.items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(differing != 0 or not same_scores)


if __name__ == "__main__":
    sys.exit(main())
