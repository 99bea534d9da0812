"""How people put a question, whatever it asks: what they say before and after it, and how they type."""

import random

from vlmamba.data.phrases import Phrases
from vlmamba.data.wordings import GLOSSARY

TOPICS = {
    "topic": "breakfast|physics|gardening|music|travel|money|history|sports|the news|my garden|your job|holidays"
    "|a long walk|books|fashion|old toys|the weather|winter|wild nature|a game|art class|the market|our project"
    "|cities|science|languages|trains|farming|the sea|a museum|cooking|computers|health|mathematics|the moon|poetry",
}  # fmt: skip
BEFORE = Phrases(
    """
    (Please|So|So|Well|Now|OK|Okay then|And|But|Hi|Hello|Hey|Sorry|Excuse me|Hm|Right|By the way|Honestly|Then),
    (Question|Quick question|One question|My question|Please tell me|Look|Let us see|Next|I would like to know):
    (Tell me|Can you tell me|Looking at <this> <picture>|In <this> <picture>|In your opinion|For once|This time),
    (Look at|See|Here is|This is|I have|Open|Consider|Study) (this|my|a|the|another) <picture>.
    (I|We|My <relative>) (found|took|got|saw|bought|made|painted) (this|it|the <picture>) (<time>|in <town>|for you).
    (I|We) (do not|don't|cannot) (know|see|understand|remember) (it|this|much|well).
    (This|It) is (for school|for my work|important|not easy|a test|odd|from <town>|from <time>).
    (This is about|It is about|I am writing about|We talk about|I like|My <relative> likes) <topic>.
    (For|Speaking of|Apart from|Talking about) <topic>(,|:)
    (Be|Please be) (honest|quick|careful|exact).
    """,
    GLOSSARY | TOPICS,
)  # fmt: skip
AFTER = Phrases(
    """
    (Thanks|Thank you|Please|Please answer|Please help).
    (I do not know|I cannot tell|We do not see it|I don't remember).
    (I have|My <relative> has) no idea.
    (Tell me|Answer) (now|please|quickly|honestly|if you can).
    """,
    GLOSSARY,
)
SHORT = ("is", "are", "the", "a", "do", "does", "this", "of", "you", "in")


def put(question: str, rng: random.Random) -> str:
    """A question as somebody puts it; every other one as it stands. Names in braces stay as they are."""
    draw = rng.random()
    if draw < 0.2:
        question = _joined(BEFORE.draw(rng), question)
    elif draw < 0.25:
        question = f"{question} {AFTER.draw(rng)}"
    elif draw < 0.28:
        question = f"{question[:-1]}, please{question[-1]}"
    return typed(question, rng) if rng.random() < 0.3 else question


def typed(question: str, rng: random.Random) -> str:
    """As people type in haste: in small letters or large ones, with a slip, with another mark at the end or none."""
    draw = rng.random()
    if draw < 0.3:
        question = question.lower()
    elif draw < 0.35 and "{" not in question:
        question = question.upper()
    elif draw < 0.6:
        question = _slip(question, rng)
    return question.rstrip("?.") + rng.choice(("", "", "", "??", " ?", "?", ".", question[-1:]))


def _joined(before: str, question: str) -> str:
    """Behind a comma or a colon a sentence goes on in small letters."""
    if before[-1] != "." and not question.startswith(("I ", "I'", "{")):
        question = question[:1].lower() + question[1:]
    return f"{before} {question}"


def _slip(question: str, rng: random.Random) -> str:
    """A letter left out or put too late, a short word left out, or what people spell as they like."""
    words = question.split(" ")
    at = rng.randrange(len(words))
    word = words[at]
    if len(word) > 2 and "{" not in word and rng.random() < 0.6:
        k = rng.randrange(len(word) - 1)
        late = rng.choice(("", word[k]))
        words[at] = word[:k] + word[k + 1] + late + word[k + 2 :]
    elif word.lower() in SHORT:
        del words[at]
    else:
        return question.replace("'", "").replace("What is", "Whats").replace("you", "u")
    return " ".join(words)
