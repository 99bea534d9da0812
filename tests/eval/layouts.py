"""Small data sets in each official layout, with answers as LLaVA writes them and the score they must get."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vlmamba.eval.prompts import LETTER, SHORT
from vlmamba.eval.tasks.mme import COGNITION, PERCEPTION


@dataclass(frozen=True)
class Layout:
    """A folder in the official layout, an answer file for it, its true score, and MM-Vet's grades."""

    task: str
    data: Path
    answers: Path
    value: float
    grades: Path | None = None


def picture(colour: int = 0) -> bytes:
    """A small PNG."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (colour % 256, 80, 160)).save(file, "PNG")
    return file.getvalue()


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_picture(path: Path, colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(colour))


def llava_answer(number: str | int, prompt: str, text: str) -> dict[str, Any]:
    return {
        "question_id": number,
        "prompt": prompt,
        "text": text,
        "answer_id": "x",
        "model_id": "m",
        "metadata": {},
    }


def vqav2(folder: Path) -> Layout:
    """1.0 (all agree), 0.9 (three of ten) and 0: 63.33."""
    heard = [["yes"] * 10, ["2"] * 3 + ["three"] * 7, ["dog"] * 9 + ["cat"]]
    said = ["yes", "Two.", "a bird"]
    kinds = ["yes/no", "number", "other"]
    questions, annotations, answers = [], [], []
    for number, (texts, text, kind) in enumerate(zip(heard, said, kinds, strict=True)):
        question = {"question_id": 42000 + number, "image_id": 42, "question": f"What {number}?"}
        questions.append(question)
        records = [
            {"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(texts)
        ]
        annotations.append(
            {
                "question_id": 42000 + number,
                "image_id": 42,
                "question_type": "what",
                "answer_type": kind,
                "multiple_choice_answer": texts[0],
                "answers": records,
            }
        )
        answers.append(llava_answer(42000 + number, question["question"] + SHORT, text))
    content = {"info": {}, "data_subtype": "val2014", "questions": questions}
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", content)
    write_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    write_picture(folder / "val2014" / "COCO_val2014_000000000042.jpg")
    return Layout("vqav2", folder, write_lines(folder / "a.jsonl", answers), 63.33)


def gqa(folder: Path) -> Layout:
    """Two of three balanced questions right; a fourth is not balanced and not asked."""
    golds = ["yes", "left", "t-shirt", "no"]
    said = ["Yes.", "right", "T-shirt"]
    questions = {
        str(100 + n): {
            "question": f"Is it {n}?",
            "answer": gold,
            "fullAnswer": "",
            "imageId": f"n{n}",
            "isBalanced": n < 3,
            "groups": {"global": "g", "local": "l"},
            "entailed": [],
            "equivalent": [],
            "types": {
                "structural": "query" if n else "verify",
                "semantic": "obj",
                "detailed": "d",
            },
            "annotations": {},
            "semantic": [{"operation": "select", "argument": "x", "dependencies": []}],
            "semanticStr": "",
        }
        for n, gold in enumerate(golds)
    }
    write_json(folder / "data" / "testdev_balanced_questions.json", questions)
    for n in range(4):
        write_picture(folder / "data" / "images" / f"n{n}.jpg", n)
    answers = [
        llava_answer(str(100 + n), f"Is it {n}?{SHORT}", text) for n, text in enumerate(said)
    ]
    return Layout("gqa", folder, write_lines(folder / "a.jsonl", answers), 200 / 3)


def scienceqa(folder: Path) -> Layout:
    """One of two image questions right, the text question right: 50."""
    problems = {}
    for pid, gold, image in (("3", 1, "image.png"), ("8", 0, "image.png"), ("11", 2, None)):
        problems[pid] = {
            "question": f"Which {pid}?",
            "choices": ["one", "two", "three"],
            "answer": gold,
            "hint": "A hint." if pid == "8" else "",
            "image": image,
            "subject": "natural science",
            "split": "test",
        }
        if image:
            write_picture(folder / "images" / "test" / pid / image)
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", {"test": ["3", "8", "11"], "train": []})
    answers = [
        llava_answer("3", f"<image>\nWhich 3?\nA. one\nB. two\nC. three{LETTER}", "B"),
        llava_answer(
            "8", f"<image>\nContext: A hint.\nWhich 8?\nA. one\nB. two\nC. three{LETTER}", "B."
        ),
        llava_answer("11", f"Which 11?\nA. one\nB. two\nC. three{LETTER}", "C. three"),
    ]
    return Layout("scienceqa", folder, write_lines(folder / "a.jsonl", answers), 50)


def textvqa(folder: Path) -> Layout:
    """Two questions on one picture, 1.0 and 0.3: 65."""
    golds = {"What brand?": ["pepsi"] * 10, "What number?": ["7"] + ["eleven"] * 9}
    records, prompts = [], []
    for number, (question, answers) in enumerate(golds.items()):
        record = {"question_id": 34000 + number, "question": question, "image_id": "abc"}
        records.append(record | {"answers": answers, "set_name": "val"})
        text = f"{question}\nReference OCR token: PEPSI, 7{SHORT}"
        prompts.append({"question_id": "abc", "image": "abc.jpg", "text": text, "category": "x"})
    write_json(folder / "TextVQA_0.5.1_val.json", {"data": records})
    write_lines(folder / "llava_textvqa_val_v051_ocr.jsonl", prompts)
    write_picture(folder / "train_images" / "abc.jpg")
    said = [
        llava_answer("abc", p["text"], t) for p, t in zip(prompts, ["Pepsi", "seven"], strict=True)
    ]
    return Layout("textvqa", folder, write_lines(folder / "a.jsonl", said), 65)


def pope(folder: Path) -> Layout:
    """F1 of 1, 2/3 and 0: 55.56."""
    said = {
        "adversarial": ["Yes", "No"],
        "random": ["Yes, there is.", "yes"],
        "popular": ["no", "There is not a dog"],
    }
    first = {"adversarial": 1, "random": 10000001, "popular": 20000001}
    questions, answers = [], []
    for category, texts in said.items():
        labels = []
        for n, (text, label) in enumerate(zip(texts, ["yes", "no"], strict=True)):
            question = f"Is there a {['cat', 'dog'][n]} in the image?"
            image = f"COCO_val2014_{n:012d}.jpg"
            labels.append({"question_id": n + 1, "image": image, "text": question, "label": label})
            number = first[category] + n
            record = {"question_id": number, "image": image, "text": question + SHORT}
            questions.append(record | {"category": category})
            answers.append(llava_answer(number, question + SHORT, text))
            write_picture(folder / "val2014" / image, n)
        write_lines(folder / "coco" / f"coco_pope_{category}.json", labels)
    write_lines(folder / "llava_pope_test.jsonl", questions)
    return Layout("pope", folder, write_lines(folder / "a.jsonl", answers), 100 * (1 + 2 / 3) / 3)


def mme(folder: Path) -> Layout:
    """One picture a subtask; existence 200, count 50, the rest of perception 0: 250."""
    said = {"existence": ("Yes", "No."), "count": ("yes", "Yes")}
    answers = []
    for subtask in (*PERCEPTION, *COGNITION):
        inside = subtask in ("artwork", "celebrity", "landmark", "posters", "scene")
        place = folder / "MME_Benchmark_release_version" / subtask
        write_picture((place / "images" if inside else place) / "0001.jpg")
        texts = place / "questions_answers_YN" if inside else place
        texts.mkdir(parents=True, exist_ok=True)
        questions = [f"Is it {k}? Please answer yes or no." for k in "ab"]
        lines = "".join(f"{q}\t{gold}\n" for q, gold in zip(questions, ("Yes", "No"), strict=True))
        (texts / "0001.txt").write_text(lines)
        number = f"{subtask}/images/0001.jpg" if inside else f"{subtask}/0001.jpg"
        for question, text in zip(questions, said.get(subtask, ("I see", "unclear")), strict=True):
            prompt = question.replace("Please answer yes or no.", "").strip() + SHORT
            answers.append(llava_answer(number, prompt, text))
    return Layout("mme", folder, write_lines(folder / "a.jsonl", answers), 250)


def mmbench(folder: Path) -> Layout:
    """Two groups; one right in both passes, one in the first only: 50."""
    header = (
        "index question hint A B C D answer category image source l2-category comment split"
    ).split()
    rows, answers = [], []
    for index, options, gold, text in (
        (7, ("cat", "dog", "", ""), "B", "B"),
        (1000007, ("dog", "cat", "", ""), "A", "A. dog"),
        (9, ("red", "blue", "None", "green"), "A", "red"),
        (1000009, ("blue", "red", "None", "green"), "B", "It is blue"),
    ):
        image = base64.b64encode(picture(index)).decode()
        hint = "A hint." if index == 7 else ""
        cells = [str(index), "Which?", hint, *options, gold, "ocr", image, "web", "logic_reasoning"]
        rows.append("\t".join([*cells, "", "dev"]))
        answers.append(llava_answer(index, "Which?", text))
    path = folder / "mmbench_dev_20230712.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["\t".join(header), *rows]) + "\n", encoding="utf-8")
    return Layout("mmbench", folder, write_lines(folder / "a.jsonl", answers), 50)


def mmvet(folder: Path) -> Layout:
    """Grades 1.0 and 0.3: 65."""
    questions = {
        f"v1_{n}": {
            "imagename": f"v1_{n}.png",
            "question": f"What {n}?",
            "answer": "a<AND>b",
            "imagesource": "x",
            "capability": capability,
        }
        for n, capability in enumerate([["rec", "ocr"], ["rec"]])
    }
    write_json(folder / "mm-vet.json", questions)
    for n in range(2):
        write_picture(folder / "images" / f"v1_{n}.png", n)
    grades = {
        f"v1_{n}": {"model": ["gpt-4-0613"], "content": [str(score)], "score": [score]}
        for n, score in enumerate((1.0, 0.3))
    }
    answers = [llava_answer(n, f"What {n}?", f"answer {n}") for n in range(2)]
    path = write_json(folder / "grades.json", grades)
    return Layout("mmvet", folder, write_lines(folder / "a.jsonl", answers), 65, path)


def mmmu(folder: Path) -> Layout:
    """A letter right, an open number right, a letter wrong: 66.67."""
    import pyarrow
    import pyarrow.parquet

    subjects = {
        "Accounting": [
            ("multiple-choice", "['$6', '$7']", "B", "The answer is (B)."),
            ("open", "[]", "3.14", "It is 3.141"),
        ],
        "Art_Theory": [("multiple-choice", "['red', 'blue', 'green']", "C", "A")],
    }
    answers = []
    for subject, items in subjects.items():
        rows = []
        for n, (kind, options, gold, text) in enumerate(items, start=1):
            number = f"validation_{subject}_{n}"
            images = {f"image_{k}": None for k in range(2, 8)}
            row = {"id": number, "question": "<image 1> Which?", "options": options, "answer": gold}
            row |= {"image_1": {"bytes": picture(n), "path": None}, "question_type": kind} | images
            rows.append(row)
            answers.append(llava_answer(number, "", text))
        path = folder / subject / "validation-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return Layout("mmmu", folder, write_lines(folder / "a.jsonl", answers), 200 / 3)


def seed(folder: Path) -> Layout:
    """Two of three right (`B.` is not `B`): 66.67 over all, 50 on images."""
    types = {"Scene Understanding": 1, "Action Recognition": 10}
    questions, asked, answers = [], [], []
    for number, kind, gold, text in (
        ("1", "image", "A", "A"),
        ("2", "image", "B", "B."),
        ("v3", "video", "D", "D"),
    ):
        choices = {f"choice_{letter}": f"choice {letter}" for letter in "abcd"}
        type_id = 1 if kind == "image" else 10
        question = {"question_id": number, "question": "Which?", "answer": gold}
        question |= {"data_id": f"d{number}", "data_type": kind, "question_type_id": type_id}
        questions.append(question | choices)
        image = f"SEED-Bench-image/d{number}"
        if kind == "video":
            image = f"SEED-Bench-video-image/10_{number}.png"
        write_picture(folder / image)
        prompt = "Which?\n" + "\n".join(f"{c}. choice {c.lower()}" for c in "ABCD") + LETTER
        identifier = int(number) if number.isdecimal() else number
        asked.append({"image": image, "text": prompt, "question_id": identifier, "category": "x"})
        answers.append(llava_answer(identifier, prompt, text))
    write_json(folder / "SEED-Bench.json", {"question_type": types, "questions": questions})
    write_lines(folder / "llava-seed-bench.jsonl", asked)
    return Layout("seed", folder, write_lines(folder / "a.jsonl", answers), 200 / 3)


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    function.__name__: function
    for function in (vqav2, gqa, scienceqa, textvqa, pope, mme, mmbench, mmvet, mmmu, seed)
}
