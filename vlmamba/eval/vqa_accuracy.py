"""The answer normalisers and the soft accuracy of the VQA family (VQA-v2, TextVQA).

Sources: `vqaEval.py` of GT-Vision-Lab/VQA (official), the m4c evaluator of mmf as LLaVA carries it, and
`vqa_eval.py` of VLMEvalKit. The tables are the same in all of them.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

# Every misspelling lacks one or more apostrophes of the word it stands for. Four keys hold capitals and never
# match, because words are lower-cased first; `somebody'd` loses its apostrophe. Both are so in the original.
_CONTRACTIONS_TABLE = """
aint->ain't arent->aren't cant->can't couldve->could've couldnt->couldn't couldn'tve->couldn't've
couldnt've->couldn't've didnt->didn't doesnt->doesn't dont->don't hadnt->hadn't hadnt've->hadn't've
hadn'tve->hadn't've hasnt->hasn't havent->haven't hed->he'd hed've->he'd've he'dve->he'd've hes->he's howd->how'd
howll->how'll hows->how's Id've->I'd've I'dve->I'd've Im->I'm Ive->I've isnt->isn't itd->it'd itd've->it'd've
it'dve->it'd've itll->it'll let's->let's maam->ma'am mightnt->mightn't mightnt've->mightn't've mightn'tve->mightn't've
mightve->might've mustnt->mustn't mustve->must've neednt->needn't notve->not've oclock->o'clock oughtnt->oughtn't
ow's'at->'ow's'at 'ows'at->'ow's'at 'ow'sat->'ow's'at shant->shan't shed've->she'd've she'dve->she'd've she's->she's
shouldve->should've shouldnt->shouldn't shouldnt've->shouldn't've shouldn'tve->shouldn't've somebody'd->somebodyd
somebodyd've->somebody'd've somebody'dve->somebody'd've somebodyll->somebody'll somebodys->somebody's
someoned->someone'd someoned've->someone'd've someone'dve->someone'd've someonell->someone'll someones->someone's
somethingd->something'd somethingd've->something'd've something'dve->something'd've somethingll->something'll
thats->that's thered->there'd thered've->there'd've there'dve->there'd've therere->there're theres->there's
theyd->they'd theyd've->they'd've they'dve->they'd've theyll->they'll theyre->they're theyve->they've twas->'twas
wasnt->wasn't wed've->we'd've we'dve->we'd've weve->we've werent->weren't whatll->what'll whatre->what're
whats->what's whatve->what've whens->when's whered->where'd wheres->where's whereve->where've whod->who'd
whod've->who'd've who'dve->who'd've wholl->who'll whos->who's whove->who've whyll->why'll whyre->why're whys->why's
wont->won't wouldve->would've wouldnt->wouldn't wouldnt've->wouldn't've wouldn'tve->wouldn't've yall->y'all
yall'll->y'all'll y'allll->y'all'll yall'd've->y'all'd've y'alld've->y'all'd've y'all'dve->y'all'd've youd->you'd
youd've->you'd've you'dve->you'd've youll->you'll youre->you're youve->you've
"""
CONTRACTIONS = {
    pair.partition("->")[0]: pair.partition("->")[2] for pair in _CONTRACTIONS_TABLE.split()
}
NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = frozenset(';/[]"{}()=+\\_-><@`,?!')

_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_STOP_BEFORE_NO_DIGIT = re.compile(r"\.(?!\d)")
_STOP_WITHOUT_DIGITS = re.compile(r"(?<!\d)\.(?!\d)")

# The public code passes a flag (re.UNICODE, 32) where `re.sub` takes the number of replacements.
_MAX_STOPS = 32


def clean_whitespace(text: str) -> str:
    """Line breaks and tabs become spaces, then the ends are stripped (`vqaEval.py`, before any comparison)."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _strip_punctuation(text: str, stop: re.Pattern[str] = _STOP_BEFORE_NO_DIGIT) -> str:
    """Each mark is deleted or becomes a space, decided on the text as it came; then full stops go.

    A mark is deleted where it touches a space anywhere in the text, or where the text holds digit-comma-digit.
    """
    marks = PUNCTUATION.intersection(text)
    if marks:
        in_number = _DIGIT_COMMA_DIGIT.search(text) is not None
        changes = {
            ord(mark): "" if in_number or f"{mark} " in text or f" {mark}" in text else " "
            for mark in marks
        }
        text = text.translate(changes)
    return stop.sub("", text, count=_MAX_STOPS) if "." in text else text


def _map_words(text: str) -> str:
    """Lower case, number words to digits, articles dropped, contractions spelled out."""
    words = []
    for word in text.lower().split():
        word = NUMBER_WORDS.get(word, word)
        if word not in ARTICLES:
            words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


@lru_cache(maxsize=1 << 20)
def normalize(text: str) -> str:
    """The official VQA-v2 normaliser: `a,b` -> `b`, `red/blue` -> `red blue`, `3.` -> `3` (`vqaEval.py`)."""
    return _map_words(_strip_punctuation(clean_whitespace(text)))


@lru_cache(maxsize=1 << 20)
def normalize_m4c(text: str) -> str:
    """TextVQA's normaliser, also what LLaVA applies before a VQA-v2 upload: `a,b` -> `ab`, `it's` -> `it 's`.

    Source: `EvalAIAnswerProcessor` in LLaVA's `m4c_evaluator.py` (from mmf).
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalize(text)


def strip_punctuation_vlmevalkit(text: str) -> str:
    """VLMEvalKit's `process_punctuation`: its look-behind works, so a stop after a digit stays."""
    return _strip_punctuation(text, _STOP_WITHOUT_DIGITS)


@lru_cache(maxsize=1 << 20)
def normalize_vlmevalkit(text: str) -> str:
    """VLMEvalKit's `process_answer`: as the official one, but `3.` -> `3.`."""
    return _map_words(strip_punctuation_vlmevalkit(clean_whitespace(text)))


@lru_cache(maxsize=1 << 12)
def _leave_one_out(matches: tuple[bool, ...]) -> float:
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Mean over the annotators of min(1, matches among the OTHER annotators / 3); strings are compared as given.

    With ten answers and m matches: 0, 0.3, 0.6, 0.9, then 1. Source: `vqaEval.py`, `m4c_evaluator.py`.
    """
    return _leave_one_out(tuple(answer == prediction for answer in answers))
