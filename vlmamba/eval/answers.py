"""Reading answer files, of ours and of any other model.

Understood: JSON lines as LLaVA writes them ({question_id, prompt, text, ...}), a JSON list of such objects (EvalAI's
{question_id, answer}, GQA's {questionId, prediction}), a JSON object {id: text} (MM-Vet, MMMU), MMBench's upload table
(.xlsx), and MME's folder of `<subtask>.txt`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from vlmamba.eval.reading import optional_module, read_json, read_json_lines, read_text

_ID_FIELDS = ("question_id", "questionId", "index", "id")
_TEXT_FIELDS = ("text", "answer", "prediction", "output", "response")


@dataclass(frozen=True)
class Answer:
    """One answer: the id of its question, the raw text, the prompt if the file has it, and where it stands."""

    id: str
    text: str
    place: str
    prompt: str | None = None


def _from_record(record: Any, place: str) -> Answer:
    if not isinstance(record, dict):
        raise ValueError(f"{place}: an object with an id and a text is needed, not {record!r:.60}")
    id_field = next((name for name in _ID_FIELDS if name in record), None)
    text_field = next((name for name in _TEXT_FIELDS if name in record), None)
    if id_field is None or text_field is None:
        raise ValueError(
            f"{place}: an answer needs an id ({', '.join(_ID_FIELDS)}) and a text ({', '.join(_TEXT_FIELDS)}); "
            f"it has {', '.join(map(repr, record)) or 'nothing'}"
        )
    number, text, prompt = record[id_field], record[text_field], record.get("prompt")
    if isinstance(number, bool) or not isinstance(number, str | int):
        raise ValueError(
            f"{place}: {id_field} must be a string or a whole number, not {number!r:.60}"
        )
    if not isinstance(text, str):
        raise ValueError(f"{place}: {text_field} must be a string, not {text!r:.60}")
    return Answer(str(number), text, place, prompt if isinstance(prompt, str) else None)


def _read_mme_folder(folder: Path) -> list[Answer]:
    answers = []
    for path in sorted(folder.glob("*.txt")):
        lines = read_text(path).rstrip("\n").split("\n")
        for number, line in enumerate(lines, start=1):
            cells = line.split("\t")
            if len(cells) != 4:
                raise ValueError(
                    f"{path}:{number}: {len(cells)} cells between tabs; 4 are needed: file, question, gold, answer"
                )
            answers.append(
                Answer(f"{path.stem}/{cells[0]}", cells[3], f"{path}:{number}", prompt=cells[1])
            )
    return answers


def _read_xlsx(path: Path) -> list[Answer]:
    openpyxl = optional_module("openpyxl", "an .xlsx file")
    try:
        workbook = openpyxl.load_workbook(path, read_only=True)
    except (BadZipFile, KeyError):
        raise ValueError(f"{path}: not an .xlsx table") from None
    rows = workbook.worksheets[0].iter_rows(values_only=True)
    header = [str(name) for name in next(rows, ())]
    answers = []
    for number, row in enumerate(rows, start=2):
        record = dict(zip(header, row, strict=True))
        if {"index", "prediction"} - set(record):
            raise ValueError(f"{path}:1: the columns index and prediction are needed")
        text = record["prediction"]
        answers.append(
            Answer(str(record["index"]), "" if text is None else str(text), f"{path}:{number}")
        )
    return answers


def read_answers(path: Path) -> list[Answer]:
    """All answers of a file in its order. Raises ValueError with file:line for the first that is no answer."""
    if path.is_dir():
        answers = _read_mme_folder(path)
    elif path.suffix == ".xlsx":
        answers = _read_xlsx(path)
    elif path.suffix == ".json":
        content = read_json(path)
        if isinstance(content, dict):
            records = [{"id": key, "text": text} for key, text in content.items()]
        else:
            records = content if isinstance(content, list) else [content]
        answers = [
            _from_record(record, f"{path} (entry {number})")
            for number, record in enumerate(records, start=1)
        ]
    else:
        answers = [_from_record(record, place) for place, record in read_json_lines(path)]
    if not answers:
        raise ValueError(f"{path}: no answers in it")
    return answers
