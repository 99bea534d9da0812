"""Draws the picture at the head of README.md: a photograph, questions, and what the embedded model answers.

    python bench/readme_picture.py [--output docs/answer.png]

The photograph of a cat comes with scikit-image (CC0, by Stefan van der Walt).
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vlmamba import load

QUESTIONS = (
    "Is there a cat?",
    "Describe the picture.",
    "Who owns this?",
)
WIDTH, HEIGHT, MARGIN, SIZE = 1000, 280, 24, 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("docs/answer.png"))
    output = parser.parse_args().output
    package = find_spec("skimage")
    assert package is not None
    assert package.origin is not None
    photograph = Path(package.origin).parent / "data" / "chelsea.png"
    vlm = load()
    sheet = Image.new("RGB", (WIDTH, HEIGHT), "white")
    picture = Image.open(photograph).convert("RGB")
    picture.thumbnail((HEIGHT * 2, HEIGHT - 2 * MARGIN))
    sheet.paste(picture, (MARGIN, MARGIN))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(SIZE)
    x, y = picture.width + 2 * MARGIN, MARGIN
    for question in QUESTIONS:
        pen.text((x, y), question, font=font, fill=(90, 90, 90))
        pen.text((x, y + SIZE + 8), vlm.ask(photograph, question), font=font, fill=(10, 10, 10))
        y += (HEIGHT - 2 * MARGIN) // len(QUESTIONS)
    sheet.save(output, optimize=True)


if __name__ == "__main__":
    main()
