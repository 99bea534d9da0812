"""Draws the sheet of the model card: 24 validation pictures chosen at random, with questions and the model's answers.

    python bench/mini_sheet.py --data DIR [--model M] [--output docs/mini_answers.jpg]

Pictures are from sets whose terms allow showing them: Caltech-101 (CC BY 4.0), the clothing set (CC0), easy-VQA's test
split (MIT) and shapes that the package draws, with a seed that training does not use. Right answers are green, wrong
ones red with the right one behind; nothing is left out.
"""

import argparse
import random
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vlmamba import load
from vlmamba.data.drawn import Drawing
from vlmamba.data.mini import easy_vqa
from vlmamba.data.packs import open_pack
from vlmamba.eval.mini_questions import Question, naming, presence

COLUMNS, ROWS, SIDE, TEXT = 6, 4, 160, 110


def questions(data: Path) -> list[Question]:
    """24 questions: ten of Caltech-101, five each of clothing and easy-VQA, four of drawn shapes."""
    rng = random.Random(24)
    caltech = open_pack(data / "caltech101_dev_128.npz")
    clothing = open_pack(data / "clothing_validation_128.npz")
    chosen = rng.sample(naming(caltech), 7) + rng.sample(presence(caltech, same_kind=True), 3)
    chosen += rng.sample(naming(clothing), 4) + rng.sample(presence(clothing, same_kind=False), 1)
    pictures, asked = easy_vqa("test")
    chosen += [Question(pictures[i], text, a) for text, a, i in rng.sample(asked, 5)]
    drawing = Drawing(size=128, seed=999)
    for index in range(4):
        picture, dialogue = drawing.draw(index)
        chosen.append(Question(picture, *dialogue[0]))
    rng.shuffle(chosen)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of the packs")
    parser.add_argument("--model", help="model directory (default: the embedded mini)")
    parser.add_argument("--output", type=Path, default=Path("docs/mini_answers.jpg"))
    arguments = parser.parse_args()
    asked = questions(arguments.data)
    answers = load(arguments.model).ask_many([(q.picture, q.text) for q in asked])
    sheet = Image.new("RGB", (COLUMNS * (SIDE + 16), ROWS * (SIDE + TEXT)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (question, answer) in enumerate(zip(asked, answers, strict=True)):
        x, y = number % COLUMNS * (SIDE + 16) + 8, number // COLUMNS * (SIDE + TEXT) + 8
        picture = question.picture.convert("RGB")
        picture = picture.resize(
            (SIDE, round(SIDE * picture.height / picture.width)), Image.Resampling.BICUBIC
        )
        sheet.paste(picture.crop((0, 0, SIDE, SIDE)), (x, y))
        y += SIDE + 4
        right = question.counts(answer)
        said = answer if right else f"{answer} (right: {question.answer})"
        for words, colour in (
            (question.text, (90, 90, 90)),
            (said, (0, 120, 40) if right else (190, 20, 20)),
        ):
            for line in textwrap.wrap(words, 24)[:4]:
                pen.text((x, y), line, font=font, fill=colour)
                y += 15
    sheet.save(arguments.output, quality=88)


if __name__ == "__main__":
    main()
