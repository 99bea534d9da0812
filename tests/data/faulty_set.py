"""A small data set with one of every fault, and two good samples."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def talk(*values, **keys):
    turns = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return {**keys, "conversations": turns}


def about(picture, id, question="<image>\nWhat is it?", answer="A cat."):
    return talk(question, answer, id=id, image=picture)


def bomb(side=20_000):
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


FAULTY = {
    "path-outside": about("../good.jpg", "p1"),
    "image-marks": about("coco/good.jpg", "m1", question="no mark"),
    "roles": {"id": "r1", "conversations": [{"from": "human", "value": "a"}] * 2
              + [{"from": "gpt", "value": "b"}]},
    "no-answer": about("coco/good.jpg", "n1", answer=" "),
    "too-long": about("coco/good.jpg", "l1", answer="so long " * 300),
    "missing": about("coco/gone.jpg", "g1"),
    "empty": about("coco/empty.jpg", "e1"),
    "truncated": about("coco/half.jpg", "t1"),
    "undecodable": about("coco/text.jpg", "u1"),
    "bomb": about("coco/bomb.jpg", "b1"),
    "duplicate-id": about("coco/good.jpg", "good"),
    "not-a-sample": {"id": "x1", "conversations": "none"},
}  # fmt: skip
GOOD = [about("coco/good.jpg", "good"), talk("Hi <image>", "Hello.", id="text")]


def write(directory: Path) -> Path:
    """Writes pictures to `images/`, and the samples, with a line that is no JSON last, to the returned file."""
    coco = directory / "images" / "coco"
    coco.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(coco / "good.jpg")
    (coco / "half.jpg").write_bytes((coco / "good.jpg").read_bytes()[:2000])
    (coco / "empty.jpg").touch()
    (coco / "text.jpg").write_text("no picture")
    (coco / "bomb.jpg").write_bytes(bomb())
    file = directory / "data.jsonl"
    lines = [json.dumps(sample) for sample in [*GOOD, *FAULTY.values()]]
    file.write_text("\n".join([*lines, '{"id": "j1",']))
    return file
