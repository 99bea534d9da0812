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

    Raises ValueError for a question answered twice, for answers to no question here (another split or version), for
    an answer whose stored prompt is another question's (ids of another version) and, unless `allow_missing`, for
    questions without an answer.
    """
    prompts = {question.prompt for question in questions}
    by_key: dict[Hashable, int] = {}
    for number, question in enumerate(questions):
        for key in question.keys:
            if by_key.setdefault(key, number) != number:
                raise ValueError(f"the benchmark's files hold question {question.id} twice")

    given: dict[int, Answer] = {}
    foreign: list[Answer] = []
    occurrences: Counter[str] = Counter()
    for answer in answers:
        number = by_key.get(benchmark.answer_key(answer, occurrences[answer.id]))
        occurrences[answer.id] += 1
        if number is None:
            foreign.append(answer)
        elif number in given:
            first = given[number].place
            raise ValueError(
                f"{answer.place}: question {answer.id} was answered before, at {first}"
            )
        elif answer.prompt in prompts and answer.prompt != questions[number].prompt:
            raise ValueError(
                f"{answer.place}: the stored prompt {answer.prompt.splitlines()[0]!r} is not that of question "
                f"{answer.id}, {questions[number].prompt.splitlines()[0]!r}: answers to another version of the "
                "benchmark's files?"
            )
        else:
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
