"""The endings and option lists that LLaVA's evaluation puts into its prompts."""

import string
from collections.abc import Iterable

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
LETTERS = string.ascii_uppercase


def lettered(options: Iterable[str]) -> str:
    """One option a line, each after a line break: `\\nA. first\\nB. second`."""
    return "".join(
        f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)
    )
