"""MMBench, English dev: circular evaluation (Table 1, column MMB).

A question is asked again with its options rotated; the group counts only if every pass is right. Sources: VLMEvalKit's
`matching_util.py` and `multiple_choice.py` with exact matching (no LLM: undecided is wrong), LLaVA's
`model_vqa_mmbench.py` and `convert_mmbench_for_submission.py`, lmms-eval's `mmbench_evals.py`.
"""

import base64
import binascii
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import mean_interval
from vlmamba.eval.letters import find_letter
from vlmamba.eval.prompts import LETTER, LETTERS, lettered
from vlmamba.eval.reading import find, get, optional_module, read_table
from vlmamba.eval.task import NotScorableError, Pair, Protocol, Question, Sample, Scores, percent

MAX_NEW_TOKENS = 1024
PROTOCOLS: tuple[Protocol, ...] = ("official", "lmms-eval", "vlmevalkit")
ROTATION = 1_000_000
PUBLISHED_SIZES = {
    (4377, 1176): "dev of 2023-07-12 (mmbench_dev_20230712), the paper's",
    (4329, 1164): "DEV_EN of today; the paper's dev of 2023-07-12 has 4,377 rows in 1,176 groups",
}
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
API_FAILURE = "Failed to obtain answer via API"
ABBREVIATIONS = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
# Cells that pandas reads as NaN by default, as both public readers do.
_NOT_A_VALUE = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|n/a|null|".split(
        "|"
    )
)
_BLANKED = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
# What XML, and so a table of this kind, cannot hold.
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_ANSWER_IS = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([A-D])", re.IGNORECASE)
# Marks that may stand before and after a lone letter, in lmms-eval's order.
_LMMS_MARKS = (
    ("", "."),
    ("", ","),
    ("", ":"),
    ("", ")"),
    ("", ")."),
    ("(", ")"),
    ("(", ")."),
    (":", ""),
    (":", ","),
    (":", "."),
    (":", ")"),
    (":", ")."),
)


def is_missing(cell: object) -> bool:
    """No value: None, NaN, a cell that pandas takes for NaN, or the word nan or none in any case (LLaVA's `is_none`).

    So an option that reads "None" ends the list of options, in the prompt and in the matching.
    """
    if cell is None or cell != cell:
        return True
    return isinstance(cell, str) and (cell in _NOT_A_VALUE or cell.lower() in ("nan", "none"))


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The row's options by letter, those without a value left out (`build_choices`)."""
    return {x: str(row[x]) for x in LETTERS if x in row and not is_missing(row[x])}


def _infer_letter(prediction: str, letters: Iterable[str]) -> tuple[str, str] | None:
    if API_FAILURE in prediction:
        return None
    if any(refusal in prediction for refusal in REFUSALS):
        return "Z", "refusal"
    words = prediction.translate(_BLANKED).split()
    found = [letter for letter in letters if letter in words]
    if len(found) == 1 and words.index(found[0]) > len(words) - 5:
        return found[0], "the only letter, near the end"
    if not found and "Z" in words:
        return "Z", "the letter Z"
    match = _ANSWER_IS.search(prediction)
    if match and match[1].upper() in letters:
        return match[1].upper(), "answer is"
    return None


def _infer_text(prediction: str, choices: Mapping[str, str]) -> tuple[str, str] | None:
    found = [letter for letter, text in choices.items() if text.lower() in prediction.lower()]
    return (found[0], "the only option's text") if len(found) == 1 else None


def infer(prediction: str, choices: Mapping[str, str]) -> tuple[str, str] | None:
    """The letter (Z for a refusal) and the rule, or None where undecided (VLMEvalKit's `can_infer`).

    First a lone letter among the last words, then `answer is X`, then the one option whose text occurs, unless the
    reply is more than twice as long as all options together.
    """
    by_letter = _infer_letter(prediction, choices)
    if by_letter or len(prediction.lower()) > 2 * sum(map(len, choices.values())):
        return by_letter
    return _infer_text(prediction, choices)


def infer_lmms_eval(prediction: str, choices: Mapping[str, str]) -> tuple[str, str] | None:
    """lmms-eval's rules of 2023: the exact tokens `A`, `A.`, `(A)`, ... of A to E, then the option's text.

    A bare letter is given up when `A` is among more than three words: it may be an article.
    """
    if API_FAILURE not in prediction:
        words = prediction.split()
        found = [letter for letter in "ABCDE" if letter in words]
        if len(found) == 1 and not ("A" in words and len(words) > 3):
            return found[0], "the only letter"
        for before, after in _LMMS_MARKS:
            found = [letter for letter in "ABCDE" if f"{before}{letter}{after}" in words]
            if len(found) == 1:
                return found[0], "the only marked letter"
    return _infer_text(prediction, choices)


def infer_lmms_static(prediction: str, choices: Mapping[str, str]) -> tuple[str, str] | None:
    """As lmms-eval scores without an LLM (`mmbench_en_dev_static`): what is undecided goes through `find_letter`."""
    found = infer_lmms_eval(prediction, choices)
    letter = None if found else find_letter(prediction, sorted(choices))
    return (letter, "letter in free form") if letter else found


def _group_rate(hits: Mapping[int, int], groups: Mapping[int, str]) -> dict[str, float]:
    members: dict[str, list[int]] = {}
    for number, name in groups.items():
        members.setdefault(name, []).append(hits[number])
    return {name: sum(values) / len(values) for name, values in sorted(members.items())}


def evaluate(rows: Sequence[Mapping[str, Any]], protocol: Protocol = "official") -> dict[str, Any]:
    """circular accuracy, hits per group, report by (l2-)category, vanilla accuracies; all fractions.

    Rows are the table's, each with a prediction. A group is `index` modulo a million, whatever its number of passes.
    vanilla0 looks at first passes alone, vanilla_all at every row. An undecided row is wrong.
    """
    inference = infer_lmms_static if protocol == "lmms-eval" else infer
    hits: dict[int, int] = {}
    right: dict[int, bool] = {}
    for row in rows:
        letter = inference(str(row["prediction"]), options_of(row))
        right[row["index"]] = letter is not None and letter[0] == row["answer"]
        group = row["index"] % ROTATION
        hits[group] = int(hits.get(group, 1) and right[row["index"]])
    first = {row["index"]: row for row in rows if row["index"] < ROTATION}
    hits = {number: hit for number, hit in hits.items() if number in first}
    report = {"Overall": sum(hits.values()) / len(hits)} if hits else {"Overall": 0.0}
    for column in ("l2-category", "category"):
        named: dict[int, str] = {
            number: ABBREVIATIONS.get(row[column], str(row[column]))
            for number, row in first.items()
            if not is_missing(row.get(column))
        }
        report |= _group_rate(hits, named)
    first_right = [right[number] for number in first]
    return {
        "circular": report["Overall"],
        "hits": hits,
        "report": report,
        "vanilla0": sum(first_right) / len(first_right) if first else 0.0,
        "vanilla_all": sum(right.values()) / len(right) if right else 0.0,
    }


def prompt(row: Mapping[str, Any]) -> str:
    """[hint,] question, the options up to the first missing one, and the request for the letter."""
    options = []
    for letter in "ABCD":
        if is_missing(row.get(letter)):
            break
        options.append(str(row[letter]))
    hint = "" if is_missing(row.get("hint")) else f"{row['hint']}\n"
    return hint + str(row["question"]) + lettered(options) + LETTER


def _read_row(place: str, row: dict[str, str], images: Mapping[str, str]) -> Question:
    index = get(row, "index", place, str)
    if not index.isdecimal():
        raise ValueError(f"{place}: index {index!r} is not a whole number")
    try:
        # In newer tables a rotation names the row that has its picture.
        cell = get(row, "image", place, str)
        image = base64.b64decode(images.get(cell, cell), validate=True)
    except binascii.Error as error:
        raise ValueError(f"{place}: the image is not base64 ({error})") from None
    record = {name: cell for name, cell in row.items() if name != "image"}
    category = get(row, "category", place, str)
    return Question(str(int(index)), prompt(row), record | {"index": int(index)}, image, category)


def read(data: Path) -> tuple[list[Question], list[str]]:
    """The rows of `mmbench_dev_20230712.tsv` (or of the one other table in the folder)."""
    tables = sorted(
        [*data.glob("mmbench*.tsv"), *data.glob("MMBench*.tsv"), *data.glob("mmbench/mmbench*.tsv")]
    )
    if len(tables) > 1:
        raise ValueError(f"{data}: several tables ({', '.join(t.name for t in tables)}); keep one")
    path = tables[0] if tables else find(data, "mmbench_dev_20230712.tsv")
    rows = list(read_table(path))
    images = {row.get("index", ""): row.get("image", "") for _, row in rows}
    questions = [_read_row(place, row, images) for place, row in rows]
    indices = {question.gold["index"] for question in questions}
    orphans = sorted(index for index in indices if index % ROTATION not in indices)
    if orphans:
        raise ValueError(
            f"{path}: row {orphans[0]} is a rotation of {orphans[0] % ROTATION}, which is not there"
        )
    sizes = (len(questions), len({index % ROTATION for index in indices}))
    note = PUBLISHED_SIZES.get(sizes, "no published version of MMBench dev")
    return questions, [f"{sizes[0]:,} rows in {sizes[1]:,} groups: {note}"]


def answer_key(answer: Answer) -> Hashable:
    """Answers go by the row's index."""
    return answer.id


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """Circular accuracy over the groups whose every row was answered; `official` and `vlmevalkit` are the same."""
    if any(is_missing(question.gold.get("answer")) for question, _ in pairs):
        raise NotScorableError(
            "this table has no answers; write a submission for the MMBench server instead"
        )
    lacking = {q.gold["index"] % ROTATION for q, text in pairs if text is None}
    whole = [
        (q, text)
        for q, text in pairs
        if text is not None and q.gold["index"] % ROTATION not in lacking
    ]
    inference = infer_lmms_static if protocol == "lmms-eval" else infer
    samples = []
    for question, text in whole:
        letter, rule = inference(text, options_of(question.gold)) or ("", "undecided")
        gold = question.gold["answer"]
        samples.append(
            Sample(
                question.id,
                question.category,
                question.prompt,
                text,
                letter,
                gold,
                float(letter == gold),
                rule,
            )
        )
    if not samples:
        raise NotScorableError("no group was answered in all its rows: nothing to score")
    result = evaluate([question.gold | {"prediction": text} for question, text in whole], protocol)
    hits = list(result["hits"].values())
    report = {name: 100 * value for name, value in result["report"].items()}
    vanilla = {name: 100 * result[name] for name in ("vanilla0", "vanilla_all")}
    notes = [f"{len(lacking)} groups without all answers left out"] if lacking else []
    return Scores(
        "mmbench",
        protocol,
        "circular accuracy",
        percent(hits),
        mean_interval(hits),
        {"report": report, "single pass": vanilla},
        samples,
        len(pairs),
        sum(text is None for _, text in pairs),
        notes,
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """The server's .xlsx: the table without hint, category, source, image, comment and l2-category, the prediction as
    seventh column (LLaVA's `convert_mmbench_for_submission.py`)."""
    openpyxl = optional_module("openpyxl", "an .xlsx file")
    dropped = ("hint", "category", "source", "image", "comment", "l2-category")
    columns = [name for name in pairs[0][0].gold if name not in dropped]
    columns.insert(6, "prediction")
    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet()
    sheet.append(columns)
    for question, text in pairs:
        row = question.gold | {"prediction": _CONTROLS.sub("", text or "")}
        sheet.append([None if is_missing(row[name]) else row[name] for name in columns])
    workbook.save(path)
