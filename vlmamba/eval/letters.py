"""lmms-eval's search for the letter of a free-form answer (`mcq_extract.py`), which its static MMBench task uses."""

from collections.abc import Sequence

_STRIPPED = (",", ".", "!", "?", ";", ":", "'", '"')
_MARKS = ("({})", "{}.", "{}:", "{})", "{} ")
_PHRASES = (
    *("the answer is", "answer is", "the correct answer is", "correct answer is"),
    *("the best answer is", "best answer is", "the correct option is", "correct option is"),
    *("the best option is", "best option is", "the choice is", "choice is"),
    *("the correct choice is", "correct choice is", "i choose", "i select", "i pick"),
    *(
        "my answer is",
        "my choice is",
        "옵션",
        "정답은",
        "답은",
        "답:",
        "答案是",
        "答案为",
        "选",
        "答えは",
    ),
)


def _last(text: str, letters: Sequence[str], mark: str) -> str | None:
    found = [letter for letter in letters if mark.format(letter) in text]
    return max(found, key=lambda letter: text.rfind(mark.format(letter)), default=None)


def _after_phrases(text: str, letters: Sequence[str]) -> str | None:
    """The letter that comes last among the first ones after each phrase."""
    lower = text.lower()
    places = [
        (text.find(letter, lower.find(phrase) + len(phrase)), -number)
        for phrase in _PHRASES
        if phrase in lower
        for number, letter in enumerate(letters)
    ]
    place, number = max(places, default=(-1, 0))
    return letters[-number] if place >= 0 else None


def find_letter(response: str, letters: Sequence[str]) -> str | None:
    """The letter by the first form that any has: at the start, at the end, after a phrase such as `the answer is`,
    as (X), X., X:, X), `X `, or anywhere; of several in one form the last. None where there is none.
    """
    text = response.strip()
    for mark in _STRIPPED:
        text = text.strip(mark)
    text = f" {text} "
    stripped = text.strip()
    for letter in letters:
        if stripped.startswith(letter) and not stripped[1:2].isalpha():
            return letter
    for letter in letters:
        if stripped.endswith(letter) and not stripped[-2:-1].isalpha():
            return letter
    found = _after_phrases(text, letters)
    for mark in (*_MARKS, "{}"):
        found = found or _last(text, letters, mark)
    return found
