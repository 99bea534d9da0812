"""Questions and answers about a picture whose content is known, in many wordings.

Every function is pure: the same `rng` state gives the same dialogue. The wording decides the form of the
answer: a name, yes or no, a sentence.
"""

import random
from collections.abc import Sequence

Dialogue = list[tuple[str, str]]  # question, answer

NAMING = (
    "What is this?",
    "What is in the picture?",
    "What is in the image?",
    "What do you see?",
    "What is shown here?",
    "What is shown in the picture?",
    "What does this picture show?",
    "What object is this?",
    "Which object is shown?",
    "Name the object.",
    "Name the main object in the picture.",
    "What is the main subject?",
    "What is the main object in the image?",
    "Can you tell me what this is?",
    "Please name what you see.",
    "Identify the object.",
    "What thing is this?",
    "What am I looking at?",
    "What's this?",
    "What's in this photo?",
    "Which thing is in the photo?",
    "Tell me what this is.",
)
SHORTLY = (
    "",
    "",
    "",
    "",
    " Answer in one word.",
    " Answer briefly.",
    " Just the name.",
    " One word or phrase.",
)
EXISTENCE = (
    "Is there {a} in the picture?",
    "Is there {a} in the image?",
    "Is there {a}?",
    "Is this {a}?",
    "Is it {a}?",
    "Does the picture show {a}?",
    "Does this image contain {a}?",
    "Can you see {a}?",
    "Do you see {a} here?",
    "Is {a} shown here?",
    "Is {a} visible in the image?",
)
YES_OR_NO = ("", "", "", "", " Answer yes or no.", " Yes or no?", " Please answer yes or no.")
DESCRIBING = (
    "Describe the picture.",
    "Describe the image.",
    "Describe this photo.",
    "Describe what you see.",
    "Write a caption for the picture.",
    "Caption this image.",
    "Give a short description of the image.",
    "Describe the picture in one sentence.",
    "Tell me about this picture.",
)
READING = (
    "What does it say?",
    "What is written here?",
    "What does the sign say?",
    "Read the text.",
    "Read the word.",
    "What word is this?",
    "What is the text in the picture?",
    "Which word is written in the image?",
    "What text do you see?",
    "Transcribe the text.",
)
SAYING = (
    "Does it say {w}?",
    "Is the word {w} written here?",
    "Does the sign say {w}?",
    "Does the text read {w}?",
)
SAME_KIND = {
    "airplane": ("automobile", "ship", "truck"),
    "automobile": ("airplane", "ship", "truck"),
    "ship": ("airplane", "automobile", "truck"),
    "truck": ("airplane", "automobile", "ship"),
}


def with_article(name: str) -> str:
    """`name` as a sentence has it: "an accordion", "a dress", but "pants" and "scissors" stand alone."""
    if name == "outerwear" or (
        name.endswith("s") and not name.endswith(("ss", "us", "is", "octopus", "brontosaurus"))
    ):
        return name
    return f"{'an' if name[:1].lower() in 'aeio' or name in ('umbrella', 'urchin') else 'a'} {name}"


def naming(name: str, rng: random.Random) -> tuple[str, str]:
    return rng.choice(NAMING) + rng.choice(SHORTLY), name


def existence(name: str, absent: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """Half yes, half no; `absent` are names of things that the picture does not show."""
    present = rng.random() < 0.5
    asked = name if present else rng.choice(absent)
    question = rng.choice(EXISTENCE).format(a=with_article(asked)) + rng.choice(YES_OR_NO)
    return question, "yes" if present else "no"


def describing(name: str, what: str, rng: random.Random) -> tuple[str, str]:
    """`what` is "photo", "small photo", "picture" ..."""
    return rng.choice(DESCRIBING), f"A {what} of {with_article(name)}."


def about_object(
    name: str, absent: Sequence[str], what: str, rng: random.Random, turns: int = 3
) -> Dialogue:
    """A dialogue about a picture of one thing: its name first or among the rest, without repeating a form."""
    forms = rng.sample(["name", "exists", "exists", "describe", "name"], k=turns)
    dialogue: Dialogue = []
    for form in dict.fromkeys(forms):
        if form == "name":
            dialogue.append(naming(name, rng))
        elif form == "exists":
            dialogue.append(existence(name, absent, rng))
        else:
            dialogue.append(describing(name, what, rng))
    return dialogue


def about_word(word: str, others: Sequence[str], rng: random.Random) -> Dialogue:
    """A dialogue about a picture of one written word."""
    if rng.random() < 0.7:
        return [(rng.choice(READING), word)]
    said = word if rng.random() < 0.5 else rng.choice(others)
    return [
        (
            rng.choice(SAYING).format(w=said) + rng.choice(YES_OR_NO),
            "yes" if said == word else "no",
        ),
        (rng.choice(READING), word),
    ]
