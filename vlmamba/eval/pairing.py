"""Bringing answers to their questions: nothing twice, nothing foreign, nothing silently missing."""

from collections import Counter
from collections.abc import Hashable, Sequence

from vlmamba.eval.answers import Answer
from vlmamba.eval.benchmark import Benchmark
from vlmamba.eval.task import Pair, Question


def _some(names: Sequence[object], limit: int = 3) -> str:
    shown = ", ".join(map(str, names[:limit]))
    return shown if len(names) <= limit else f"{shown}, ..."


def pair_answers(
    benchmark: Benchmark,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    *,
    allow_missing: bool = False,
) -> list[Pair]:
    """Every question, in the order of the benchmark, with the raw text answered to it (None where there is none).

    Where several questions go by one key, answers to it are theirs in order.

    Raises ValueError for a question answered twice, for answers to no question here (another split or version), for
    an answer whose stored prompt is another question's (ids of another version) and, unless `allow_missing`, for
    questions without an answer.
    """
    if len({question.id for question in questions}) != len(questions):
        twice = Counter(question.id for question in questions).most_common(1)[0][0]
        raise ValueError(f"the benchmark's files hold question {twice} twice")
    by_key: dict[Hashable, list[int]] = {}
    for number, question in enumerate(questions):
        for key in question.keys:
            by_key.setdefault(key, []).append(number)
    prompts = {question.prompt for question in questions}

    given: dict[int, Answer] = {}
    foreign: list[Answer] = []
    for answer in answers:
        numbers = by_key.get(benchmark.answer_key(answer))
        if not numbers:
            foreign.append(answer)
            continue
        number = next((number for number in numbers if number not in given), None)
        if number is None:
            first = given[numbers[0]].place
            raise ValueError(
                f"{answer.place}: question {answer.id} was answered before, at {first}"
            )
        asked = questions[number].prompt
        if answer.prompt in prompts and answer.prompt != asked:
            raise ValueError(
                f"{answer.place}: the stored prompt {answer.prompt.splitlines()[0]!r} is not that of question "
                f"{answer.id}, {asked.splitlines()[0]!r}: answers to another version of the benchmark's files?"
            )
        given[number] = answer
    missing = [question.id for n, question in enumerate(questions) if n not in given]

    if foreign:
        raise ValueError(
            f"{foreign[0].place}: no question {foreign[0].id} in the benchmark's files; {len(foreign)} of "
            f"{len(answers)} answers belong to none of the {len(questions)} questions: another split or version?"
        )
    if missing and not allow_missing:
        raise ValueError(
            f"{len(missing)} of {len(questions)} questions have no answer ({_some(missing)}); "
            "answer them, or pass --allow-missing"
        )
    return [
        (question, given[n].text if n in given else None) for n, question in enumerate(questions)
    ]
