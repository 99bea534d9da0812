"""MME: two yes/no questions an image; Table 1's column is the perception sum, at most 2000.

Sources: `calculation.py` of MME's eval_tool, LLaVA's `convert_answer_to_mme.py`.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import bootstrap_interval
from vlmamba.eval.prompts import SHORT
from vlmamba.eval.reading import read_text
from vlmamba.eval.task import NotScorableError, Pair, Protocol, Question, Sample, Scores
from vlmamba.eval.yes_no import find_yes_or_no

MAX_NEW_TOKENS = 128
PROTOCOLS: tuple[Protocol, ...] = ("official", "lmms-eval", "vlmevalkit")
PERCEPTION = {
    "existence": 60,
    "count": 60,
    "position": 60,
    "color": 60,
    "posters": 294,
    "celebrity": 340,
    "scene": 400,
    "landmark": 400,
    "artwork": 400,
    "OCR": 40,
}
COGNITION = {
    "commonsense_reasoning": 140,
    "numerical_calculation": 40,
    "text_translation": 40,
    "code_reasoning": 40,
}
ASK_YES_NO = "Please answer yes or no."


def parse(response: str, protocol: Protocol = "official") -> str:
    """yes, no or other: `yes`, then `no`, looked for in the first four lower-cased characters, nothing stripped.

    lmms-eval strips, deletes full stops and takes a lone y or n; VLMEvalKit searches for the words.
    """
    if protocol == "vlmevalkit":
        return {"Yes": "yes", "No": "no", "Unknown": "other"}[find_yes_or_no(response)]
    text = response.lower()
    if protocol == "lmms-eval":
        text = text.strip().replace(".", "")
        if text in ("y", "n"):
            return {"y": "yes", "n": "no"}[text]
    if "yes" in text[:4]:
        return "yes"
    return "no" if "no" in text[:4] else "other"


def subtask_metrics(pairs: Sequence[tuple[bool, bool]], num_other: int = 0) -> dict[str, float]:
    """acc, acc_plus (fractions) and score = 100 (acc + acc_plus), from the correctness of each image's two answers."""
    acc = sum(first + second for first, second in pairs) / (2 * len(pairs)) if pairs else 0.0
    acc_plus = sum(first and second for first, second in pairs) / len(pairs) if pairs else 0.0
    return {
        "acc": acc,
        "acc_plus": acc_plus,
        "score": acc * 100 + acc_plus * 100,
        "other_num": num_other,
    }


def evaluate(
    subtasks: Mapping[str, Sequence[Mapping[str, str]]], protocol: Protocol = "official"
) -> dict[str, Any]:
    """perception and cognition sums and each subtask's metrics, from lines {image, question, answer, response}.

    Lines pair up by order, two an image. Raises ValueError for a line left over or two of different images.
    """
    tables = {}
    for name, lines in subtasks.items():
        if len(lines) % 2:
            raise ValueError(f"{name}: {len(lines)} lines; two an image are needed")
        said = [parse(line["response"], protocol) for line in lines]
        correct = [label == line["answer"].lower() for label, line in zip(said, lines, strict=True)]
        for first, second in zip(lines[::2], lines[1::2], strict=True):
            if first["image"] != second["image"]:
                raise ValueError(
                    f"{name}: {first['image']} and {second['image']} are neighbours, not a pair"
                )
        pairs = list(zip(correct[::2], correct[1::2], strict=True))
        tables[name] = subtask_metrics(pairs, said.count("other"))
    return {
        "perception": float(sum(tables[name]["score"] for name in PERCEPTION if name in tables)),
        "cognition": float(sum(tables[name]["score"] for name in COGNITION if name in tables)),
        "subtasks": tables,
    }


def _clean(question: str) -> str:
    """A question without its request for yes or no, however it ends: what prompts and files agree on."""
    question = question.removesuffix("\n").removesuffix(SHORT).replace(ASK_YES_NO, "")
    return " ".join(question.split())


def _questions_of(folder: Path, subtask: str) -> list[Question]:
    texts = folder / "questions_answers_YN"
    images = folder / "images"
    by_stem = {}
    for path in (images if images.is_dir() else folder).iterdir():
        if path.suffix.lower() in (".jpg", ".png", ".jpeg"):
            by_stem[path.stem] = str(path.relative_to(folder.parent))
    questions = []
    for path in sorted((texts if texts.is_dir() else folder).glob("*.txt")):
        lines = [line for line in read_text(path).split("\n") if line.strip()]
        if len(lines) != 2:
            raise ValueError(f"{path}: {len(lines)} questions; two an image are needed")
        if path.stem not in by_stem:
            raise ValueError(f"{path}: no picture {path.stem}.jpg or .png for it")
        for number, line in enumerate(lines, start=1):
            text, tab, gold = line.rpartition("\t")
            gold = gold.strip()
            if not tab or gold.lower() not in ("yes", "no"):
                raise ValueError(f"{path}:{number}: a question, a tab and Yes or No are needed")
            questions.append(
                Question(
                    f"{by_stem[path.stem]}#{number}",
                    text.replace(ASK_YES_NO, "").strip() + SHORT,
                    {"question": text, "answer": gold, "image": path.stem},
                    by_stem[path.stem],
                    subtask,
                    ((subtask, path.stem, _clean(text)), (subtask, path.stem)),
                )
            )
    return questions


def read(data: Path) -> tuple[list[Question], list[str]]:
    """The subtask folders of `MME_Benchmark_release_version`, each image's two questions side by side."""
    for below in ("", "MME_Benchmark_release_version", "MME/MME_Benchmark_release_version", "MME"):
        folders = [data / below / name for name in (*PERCEPTION, *COGNITION)]
        if any(folder.is_dir() for folder in folders):
            break
    else:
        raise FileNotFoundError(
            f"{data}: no folder of an MME subtask (existence, count, ...); pass it with --data"
        )
    absent = [folder.name for folder in folders if not folder.is_dir()]
    if absent:
        raise FileNotFoundError(
            f"{folders[0].parent}: the subtasks {', '.join(absent)} are not there"
        )
    questions = [q for folder in folders for q in _questions_of(folder, folder.name)]
    sizes = {name: sum(q.category == name for q in questions) for name in PERCEPTION | COGNITION}
    wrong = {name: n for name, n in sizes.items() if n != (PERCEPTION | COGNITION)[name]}
    if not wrong:
        return questions, ["the released version, 2,374 questions"]
    counts = ", ".join(f"{name} {n}" for name, n in wrong.items())
    return questions, [f"not the released version: {counts} questions"]


def answer_key(answer: Answer) -> Hashable:
    """(subtask, image, question) from an id `<subtask>/[images/]<file>` and its prompt; without one the image's two
    questions go by order."""
    parts = answer.id.split("/")
    image = parts[0], parts[-1].rpartition(".")[0] or parts[-1]
    return image if answer.prompt is None else (*image, _clean(answer.prompt))


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """The perception sum, the cognition sum beside it; an image counts only when both its questions were answered."""
    lines: dict[str, list[dict[str, str]]] = {}
    samples: list[Sample] = []
    num_missing = 0
    for (first, text_1), (second, text_2) in zip(pairs[::2], pairs[1::2], strict=True):
        if text_1 is None or text_2 is None:
            num_missing += 2
            continue
        for question, text in ((first, text_1), (second, text_2)):
            gold = question.gold["answer"].lower()
            said = parse(text, protocol)
            samples.append(
                Sample(
                    question.id,
                    question.category,
                    question.prompt,
                    text,
                    said,
                    gold,
                    float(said == gold),
                    "word search" if protocol == "vlmevalkit" else "first four characters",
                )
            )
            lines.setdefault(question.category, []).append(question.gold | {"response": text})
    result = evaluate(lines, protocol)
    correct: dict[str, list[float]] = {}
    for sample in samples:
        correct.setdefault(sample.category, []).append(sample.score)
    strata = [
        np.column_stack([np.add(c[::2], c[1::2]) / 2, np.multiply(c[::2], c[1::2])])
        for name, c in correct.items()
        if name in PERCEPTION
    ]
    if not strata:
        raise NotScorableError(
            "no perception question was answered: nothing for the paper's column"
        )
    return Scores(
        "mme",
        protocol,
        "perception sum",
        result["perception"],
        bootstrap_interval(strata, lambda means: 100 * np.sum([m.sum(1) for m in means], axis=0)),
        {
            "sums": {name: result[name] for name in ("perception", "cognition")},
            **result["subtasks"],
        },
        samples,
        len(pairs),
        num_missing,
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """A folder of `<subtask>.txt` for eval_tool: file, question, gold, answer; breaks and tabs become spaces."""
    path.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {}
    for question, text in pairs:
        if text is not None:
            answer = " ".join(text.replace("\r", " ").replace("\t", " ").split("\n"))
            gold = question.gold
            row = "\t".join([f"{gold['image']}.txt", gold["question"], gold["answer"], answer])
            rows.setdefault(question.category, []).append(row)
    for subtask, lines in rows.items():
        (path / f"{subtask}.txt").write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")
