"""What the data pipeline costs beside decoding pictures, and how well rows are filled and shared out.

    python bench/data_pipeline.py [--cores 2] [--rounds 7] [--json results/data_pipeline.json]

The pipeline is all that a batch of LLaVA's second stage needs: samples read from the file, tokenised, pictures decoded,
padded, resized, normalised, rows packed. It is measured against decoding, padding and resizing the same pictures in as
many threads, in turns. Pictures are photographs as JPEG of 640 x 480, as most of LLaVA's are, at SigLIP's 384 x 384.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from llava_lengths import LlavaLengths
from PIL import Image
from record import circumstances

from vlmamba.data.batches import in_order
from vlmamba.data.grouping import Grouped
from vlmamba.data.llava import LlavaSamples
from vlmamba.data.packing import Packed
from vlmamba.processing import ImageSettings, Processor, square_padding
from vlmamba.vlm import embedded_model

PICTURES = 256
SAMPLES = 100_000  # whose lengths are packed
PATCHES, SIZE = 729, 384
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def write_data(folder: Path, processor: Processor) -> Path:
    """A data file of conversations about as many photographs, all different crops."""
    rng = np.random.default_rng(0)
    sources = [
        Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        for name in PHOTOGRAPHS
    ]
    words = "a cat sits on the mat and looks at two small birds near an old red house".split()
    per_word = len(processor.tokenizer.encode(" ".join(words)).ids) / len(words)
    drawn = LlavaLengths("finetune", 2 * PICTURES, 2048)
    texts = [
        n - PATCHES for n, shows in zip(drawn.lengths, drawn.has_picture, strict=True) if shows
    ]
    samples = []
    for k in range(PICTURES):
        picture = sources[k % len(sources)]
        x, y = (int(rng.integers(0, side // 3)) for side in picture.size)
        crop = picture.crop((x, y, x + picture.width * 2 // 3, y + picture.height * 2 // 3))
        crop.resize((640, 480), Image.Resampling.LANCZOS).save(folder / f"{k}.jpg", quality=90)
        spoken = " ".join(rng.choice(words, max(4, round(texts[k] / per_word))))
        turns = [("human", "<image>\nWhat is this?"), ("gpt", spoken)]
        samples.append(
            {
                "id": str(k),
                "image": f"{k}.jpg",
                "conversations": [{"from": who, "value": text} for who, text in turns],
            }
        )
    file = folder / "data.json"
    file.write_text(json.dumps(samples))
    return file


def decode(path: Path, mean: tuple[float, ...]) -> Image.Image:
    """A picture decoded, padded to a square and resized: what no pipeline can do without."""
    picture = Image.open(path).convert("RGB")
    side, offset, colour = square_padding(picture.width, picture.height, mean)
    canvas = Image.new("RGB", (side, side), colour)
    canvas.paste(picture, offset)
    return canvas.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pipeline(cores: int, rounds: int) -> dict[str, Any]:
    """Seconds of the pipeline over seconds of decoding, round by round."""
    loaded = Processor.load(embedded_model())
    processor = Processor(
        loaded.tokenizer, ImageSettings(SIZE), PATCHES, loaded.template,
        image_token_id=loaded.image_token_id, eos_token_id=loaded.eos_token_id, pad_token_id=loaded.pad_token_id,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = LlavaSamples(write_data(folder, processor), folder, processor, 4096)
        packed = Packed(samples, 1, 4096, seed=0)
        paths = [folder / f"{k}.jpg" for k in range(PICTURES)]
        with ThreadPoolExecutor(cores) as pool:

            def decode_all() -> None:
                list(pool.map(lambda path: decode(path, processor.image.mean), paths))

            def batch_all() -> None:
                assert (
                    sum(len(b.sample_ids) for b in in_order(packed, range(rows), cores)) >= PICTURES
                )

            rows = len(packed)
            decode_all(), batch_all()  # pages are read, codecs loaded
            ratios = []
            for _ in range(rounds):
                alone, whole = timed(decode_all), timed(batch_all)
                ratios.append(whole / alone)
    return {
        "pipeline over decoding and resizing": round(statistics.median(ratios), 3),
        "lowest and highest round": [round(min(ratios), 3), round(max(ratios), 3)],
        "rounds": rounds,
        "cores": cores,
    }


def fill(stage: str, max_length: int, rows: int, together: int = 8) -> dict[str, float]:
    """How full packed rows are, and the largest share of a step that a process of eight gets, over an equal share."""
    samples = LlavaLengths(stage, SAMPLES, 2048)
    packed = Packed(samples, rows, max_length, seed=0, together=together)
    steps = len(packed) // together
    loads = [sum(samples.lengths[n] for n in packed.row(k)) for k in range(steps * together * rows)]
    shares = np.array(loads).reshape(steps, together, rows).sum(2)
    largest = shares.max(1) / shares.mean(1)
    return {
        "row": max_length,
        "filled": round(sum(loads) / len(loads) / max_length, 4),
        "largest share of a step, mean": round(float(largest.mean()), 4),
        "largest share of a step, worst": round(float(largest.max()), 4),
    }


def padded(batch_size: int = 16, together: int = 8) -> dict[str, float]:
    """How full padded batches in LLaVA's order are."""
    samples = LlavaLengths("finetune", SAMPLES, 2048)
    grouped = Grouped(samples, samples.has_picture, batch_size, seed=0, together=together)
    order = np.array(samples.lengths)[grouped.order(0)]
    whole = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)
    return {"filled": round(float(whole.sum() / (whole.max(1) * batch_size).sum()), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where the record goes")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    torch.set_num_threads(1)  # each worker is a thread of its own
    measured = {
        "pipeline": pipeline(arguments.cores, arguments.rounds),
        "665K, packed": [fill("finetune", row, 16384 // row) for row in (2048, 3840, 8192)],
        "558K, packed": [fill("align", 3072, 8)],
        "665K, padded in LLaVA's order": padded(),
    }
    print(json.dumps(measured, indent=1))
    if arguments.json:
        head = circumstances("python bench/data_pipeline.py", 0)
        arguments.json.write_text(json.dumps({**head, **measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
