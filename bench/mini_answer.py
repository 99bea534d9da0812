"""Times an answer of the embedded model on a CPU against one forward pass of its vision tower.

    python bench/mini_answer.py [--rounds N] [--threads 2] [--json FILE]

The model is loaded and the photograph, scikit-image's cat, is in memory; the answer is a sentence of eight tokens. Both
take turns, and the figure is the median of the rounds' ratios, so that a busy machine hurts both alike.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from cold_start import photograph
from record import circumstances

from vlmamba import load
from vlmamba.pictures import open_picture

QUESTION, TOKENS, TARGET = "Describe the picture.", 8, 6.0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the record there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    vlm = load(device="cpu")
    picture = open_picture(photograph())
    pixels = vlm.processor.pixel_values([picture])
    ratios = []
    for _ in range(arguments.rounds + 2):
        start = time.perf_counter()
        with torch.inference_mode():
            vlm.model.model.vision_tower(pixels)
        seen = time.perf_counter()
        answer = vlm.answer(picture, QUESTION)
        ratios.append((time.perf_counter() - seen) / (seen - start))
    if len(answer.token_ids) != TOKENS:
        print(f"the answer is {len(answer.token_ids)} tokens long, not {TOKENS}", file=sys.stderr)
        return 1
    ratio = statistics.median(ratios[2:])  # the first two warm up
    low, *_, high = statistics.quantiles(ratios[2:], n=10)
    print(
        f"an answer of {TOKENS} tokens: {ratio:.2f} x one pass of the tower (tenths {low:.2f} to {high:.2f}; "
        f"target {TARGET:.0f})"
    )
    if arguments.json:
        record = circumstances("python bench/mini_answer.py") | {
            "threads": arguments.threads, "rounds": arguments.rounds, "answer": answer.text,
            "ratio": ratio, "tenths": [low, high],
        }  # fmt: skip
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
