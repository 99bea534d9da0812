"""MMMU validation: college questions, multiple choice and open (Table 1, column MMMU).

Source: MMMU-Benchmark/MMMU, `eval_utils.py` and `main_eval_only.py`.
"""

import ast
import json
import random
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmamba.eval.answers import Answer
from vlmamba.eval.intervals import mean_interval
from vlmamba.eval.prompts import LETTER, LETTERS, SHORT
from vlmamba.eval.reading import find, get, read_objects, read_parquet
from vlmamba.eval.task import Pair, Protocol, Question, Sample, Scores, percent

MAX_NEW_TOKENS = 128
PROTOCOLS: tuple[Protocol, ...] = ("official", "lmms-eval")
PUBLISHED_SIZE = 900
RANDOM_SEED = 42
DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
_STRIPPED = (",", ".", "!", "?", ";", ":", "'")
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 1,250
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 6.02e23
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 3.5
)


def parse_choice(
    response: str, options: Sequence[str], protocol: Protocol = "official"
) -> tuple[str, str] | None:
    """The letter and the rule, or None where the public parser draws a letter at random.

    Letters as `(X)`; else ` X ` between spaces; else, in more than five words, an option's whole text. Of several the
    one that ends the reply wins, the first letter in a tie. lmms-eval also takes `X ` and `X.`.
    """
    for mark in _STRIPPED:
        response = response.strip(mark)
    response = f" {response} "
    letters = LETTERS[: len(options)]

    patterns = [("(X)", "({})"), ("X between spaces", " {} ")]
    if protocol == "lmms-eval":
        patterns = [("(X)", "({})"), ("X and a space", "{} "), ("X and a stop", "{}.")]
    for rule, pattern in patterns:
        found = [letter for letter in letters if pattern.format(letter) in response]
        if found:
            # lmms-eval ranks letters by their places between spaces, however they were found.
            place = pattern if rule == "(X)" else " {} "
            return max(found, key=lambda letter: response.rfind(place.format(letter))), rule

    if len(response.split()) > 5:
        reply = response.lower()
        texts = {letter: text.lower() for letter, text in zip(letters, options, strict=True)}
        found = [letter for letter, text in texts.items() if text in reply]
        if found:
            return max(found, key=lambda letter: reply.rfind(texts[letter])), "an option's text"
    return None


class ChoiceParser:
    """`parse_choice` with the public fallback: a letter from Python's random with seed 42, drawn in sample order."""

    def __init__(self, seed: int = RANDOM_SEED, protocol: Protocol = "official") -> None:
        self.random = random.Random(seed)
        self.protocol: Protocol = protocol

    def __call__(self, response: str, options: Sequence[str]) -> tuple[str, str]:
        """The letter and the rule. The order of the calls matters."""
        found = parse_choice(response, options, self.protocol)
        return found or (self.random.choice(LETTERS[: len(options)]), "random")


def normalize(text: str) -> list[float | str]:
    """A number as float with two decimals; one character x as ` x` and `x `; else lower case (`normalize_str`)."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def _key_responses(response: str) -> list[str]:
    """The shortest tail behind an indicator, of each line; the whole reply where no line has one.

    The public code also means to split after sentences, but has lower-cased the text by then.
    """
    response = response.strip().strip(".").lower()
    lines = response.split("\n")
    found = []
    for number, line in enumerate(lines):
        indicators = (*_INDICATORS, "=") if number == len(lines) - 1 else _INDICATORS
        shortest = ""
        for indicator in indicators:
            if indicator in line:
                tail = line.split(indicator)[-1].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _STRIPPED:
            found.append(shortest)
    return found or [response]


def parse_open(response: str) -> set[float | str]:
    """Everything the reply may be claiming: its key parts and the numbers in them, normalised."""
    candidates = _key_responses(response)
    numbers = [
        number
        for candidate in candidates
        for pattern in _NUMBERS
        for number in pattern.findall(candidate)
    ]
    return {value for candidate in candidates + numbers for value in normalize(candidate)}


def is_correct_open(parsed: set[float | str], answer: str | Sequence[str]) -> bool:
    """A number that equals a gold number, or a text that holds a gold text (`eval_open`)."""
    answers = [answer] if isinstance(answer, str) else answers_of(answer)
    golds = [value for one in answers for value in normalize(one)]
    texts = [gold for gold in golds if isinstance(gold, str)]
    return any(
        any(text in value for text in texts) if isinstance(value, str) else value in golds
        for value in parsed
    )


def answers_of(answer: Sequence[str]) -> list[str]:
    """Gold answers as strings; the answer file holds some as numbers."""
    return [str(one) for one in answer]


def subject_of(identifier: str) -> str:
    """`validation_Art_Theory_12` -> `Art_Theory`."""
    return "_".join(identifier.split("_")[1:-1])


def evaluate(items: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """Accuracy by subject, by domain and overall, weighted by counts, from (id, correct).

    Subjects of no domain count in none of them (`main_eval_only.py`); fractions, not rounded.
    """
    correct: dict[str, list[bool]] = {}
    for identifier, value in items:
        correct.setdefault(subject_of(identifier), []).append(value)

    def accuracy(subjects: Sequence[str]) -> tuple[float, int]:
        values = [value for subject in subjects for value in correct.get(subject, [])]
        return (sum(values) / len(values) if values else 0.0), len(values)

    known = {subject for subjects in DOMAINS.values() for subject in subjects}
    domains = {name: accuracy(subjects) for name, subjects in DOMAINS.items()}
    return {
        "categories": {
            name: {"acc": sum(values) / len(values), "num_example": len(values)}
            for name, values in correct.items()
            if name in known
        },
        "domains": {name: {"acc": acc, "num": number} for name, (acc, number) in domains.items()},
        "overall": accuracy(sorted(known))[0],
    }


def prompt(question: str, options: Sequence[str]) -> str:
    """LLaVA's form in the MMMU repository: options as `(A) x`; image marks stay in the text."""
    if not options:
        return question + SHORT
    lines = "".join(f"({letter}) {text}\n" for letter, text in zip(LETTERS, options, strict=False))
    return f"{question}\n{lines}{LETTER}"


def _strings_in(text: str) -> list[str] | None:
    """The list in a string such as "['a', 'b']"; None where there is none, or one of other things."""
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    strings = isinstance(values, list) and all(isinstance(value, str) for value in values)
    return values if strings else None


def _from_row(row: Mapping[str, Any], place: str) -> Question:
    number, kind = get(row, "id", place, str), get(row, "question_type", place, str)
    options = _strings_in(get(row, "options", place, str))
    if options is None or (kind == "multiple-choice" and not options):
        raise ValueError(f"{place}: {row['options']!r:.60} is not a list of options")
    answer: str | list[str] = get(row, "answer", place, str)
    if kind != "multiple-choice":
        options = []
        answer = _strings_in(answer) or answer
    images = [row.get(f"image_{n}") for n in range(1, 8)]
    return Question(
        number,
        prompt(get(row, "question", place, str), options),
        {"options": options or None, "answer": answer, "type": kind},
        next((image["bytes"] for image in images if image), None),
        subject_of(number),
    )


def _read_parquet(paths: Sequence[Path]) -> list[Question]:
    return [
        _from_row(row, f"{path}, row {number}")
        for path in paths
        for number, row in enumerate(read_parquet(path), start=1)
    ]


def read(data: Path) -> tuple[list[Question], list[str]]:
    """The validation parquet files of the hub's `MMMU/MMMU`, one folder a subject; or, without options and prompts,
    the repository's `answer_dict_val.json`, against which lists of parsed letters can be scored."""
    folders = ("", "*/", "MMMU/*/")
    paths = sorted(
        path for folder in folders for path in data.glob(f"{folder}validation-*.parquet")
    )
    if paths:
        questions = _read_parquet(paths)
        notes = []
    else:
        path = find(
            data, "answer_dict_val.json", "eval/answer_dict_val.json", "mmmu/answer_dict_val.json"
        )
        questions = []
        for place, number, record in read_objects(path):
            kind = get(record, "question_type", place, str)
            answer = record.get("ground_truth")
            if not isinstance(answer, str | list):
                raise ValueError(
                    f"{place}: ground_truth must be a string or a list, not {answer!r:.60}"
                )
            gold = {"options": None, "answer": answer, "type": kind}
            questions.append(Question(number, "", gold, None, subject_of(number)))
        notes = [
            "no options in answer_dict_val.json: multiple-choice answers are compared as they are"
        ]
    unknown = {q.category for q in questions} - {s for names in DOMAINS.values() for s in names}
    if unknown:
        raise ValueError(f"{data}: no subject of MMMU: {', '.join(sorted(unknown))}")
    if len(questions) != PUBLISHED_SIZE:
        notes.append(f"{len(questions)} questions; validation has {PUBLISHED_SIZE}")
    return questions, notes


def answer_key(answer: Answer) -> Hashable:
    """Answers go by id, such as validation_Accounting_1."""
    return answer.id


def _score_sample(question: Question, text: str, parse: ChoiceParser) -> Sample:
    gold = question.gold["answer"]
    if question.gold["type"] == "multiple-choice":
        options = question.gold["options"]
        parsed, rule = parse(text, options) if options else (text, "as given")
        correct = parsed in gold if isinstance(gold, list) else parsed == gold
    else:
        values = parse_open(text)
        correct = is_correct_open(values, gold)
        parsed, rule = ", ".join(sorted(map(repr, values))), "open"
    return Sample(
        question.id,
        question.category,
        question.prompt,
        text,
        parsed,
        gold if isinstance(gold, str) else ", ".join(answers_of(gold)),
        float(correct),
        rule,
    )


def score(pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
    """Overall accuracy, by domain and subject; how often the random fallback decided, and the accuracy without it."""
    parse = ChoiceParser(protocol=protocol)
    samples = [_score_sample(question, text, parse) for question, text in pairs if text is not None]
    result = evaluate([(sample.id, bool(sample.score)) for sample in samples])
    values = [sample.score for sample in samples]
    fallbacks = sum(sample.rule == "random" for sample in samples)
    plain = [0.0 if sample.rule == "random" else sample.score for sample in samples]
    return Scores(
        "mmmu",
        protocol,
        "accuracy",
        percent(values),
        mean_interval(values),
        {
            "domain": {
                name: round(100 * d["acc"], 1) for name, d in result["domains"].items() if d["num"]
            },
            "subject": {name: round(100 * c["acc"], 1) for name, c in result["categories"].items()},
            "random fallback": {"answers": fallbacks, "accuracy if they are wrong": percent(plain)},
        },
        samples,
        len(pairs),
        len(pairs) - len(samples),
        [f"a random letter (seed {RANDOM_SEED}) stands for {fallbacks} of {len(samples)} answers"],
    )


def write_submission(pairs: Sequence[Pair], path: Path) -> None:
    """{id: parsed letter or raw open answer} for `main_eval_only.py` and the server."""
    parse = ChoiceParser()
    answers = {}
    for question, text in pairs:
        if text is not None:
            options = question.gold["options"]
            answers[question.id] = parse(text, options)[0] if options else text
    path.write_text(json.dumps(answers, indent=1), encoding="utf-8")
