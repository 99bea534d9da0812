"""Streamed pieces, joined, are the answer, and no piece ever says too much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vlmamba.engine.text import AnswerText

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["é", "ab", "abc", " yes", "日本", "🙂"]


def byte_level(words: list[str]) -> Tokenizer:
    """A tokenizer of single bytes and a few words, some of which end inside a character."""
    to_symbols = {bytes([b]): s for b, s in _byte_symbols().items()}
    vocab = {symbol: i for i, symbol in enumerate(ALPHABET)}
    for word in words:
        for end in range(2, len(word.encode()) + 1):
            symbols = "".join(to_symbols[bytes([b])] for b in word.encode()[:end])
            vocab.setdefault(symbols, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


def _byte_symbols() -> dict[int, str]:
    """GPT-2's table: printable bytes are themselves, the others follow from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


TOKENIZER = byte_level(MERGES)
END = TOKENIZER.token_to_id("<|end|>")


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def of_bytes(data: bytes) -> list[int]:
    symbols = _byte_symbols()
    return [TOKENIZER.token_to_id(symbols[b]) for b in data]


def streamed(ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    text = AnswerText(decode, stop)
    pieces = []
    for token in ids:
        pieces.append(text.push(token))
        if text.stopped:
            break
    return [*pieces, text.end()]


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=24))
def test_pieces_of_any_tokens_join_to_the_whole(ids):
    assert "".join(streamed(ids)) == decode(ids).strip()


@given(st.text(max_size=12))
def test_no_piece_holds_half_a_character(text):
    pieces = streamed(of_bytes(text.encode()))
    assert "".join(pieces) == text.strip()
    for piece in pieces:
        assert all(character in text for character in piece)


def test_each_word_comes_as_soon_as_it_is_certain():
    assert streamed(of_bytes(b" a b ")) == ["", "a", "", " b", "", ""]


def test_broken_bytes_at_the_end_are_shown_as_such():
    assert streamed(of_bytes(b"a\xe6\x97")) == ["a", "", "", "\ufffd"]


def test_special_tokens_have_no_text():
    assert "".join(streamed([*of_bytes(b"yes"), END])) == "yes"


@given(
    st.text("abc", max_size=14),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_text_ends_before_the_first_stop_text(text, stops):
    cuts = []
    for end in range(len(text) + 1):  # the earliest moment at which a stop text is complete
        cuts = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if cuts:
            break
    expected = text[: min(cuts)] if cuts else text
    assert "".join(streamed(of_bytes(text.encode()), tuple(stops))) == expected


@pytest.mark.parametrize("stop", ["\nUser:", "日本"])
def test_what_may_begin_a_stop_text_waits(stop):
    text = AnswerText(decode, (stop,))
    for token in of_bytes(f"ok{stop[:-1]}".encode()):
        piece = text.push(token)
    assert piece == ""
    assert not text.stopped
    for token in of_bytes(stop[-1].encode()):
        assert text.push(token) == ""
    assert text.stopped
    assert text.end() == ""
    assert text.push(of_bytes(b"x")[0]) == ""


def test_a_false_start_of_a_stop_text_is_given_back():
    assert "".join(streamed(of_bytes(b"a\nUse it"), ("\nUser:",))) == "a\nUse it"
    assert "".join(streamed(of_bytes(b"a\nUser"), ("\nUser:",))) == "a\nUser"
