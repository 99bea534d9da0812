"""Samples found by their place in a file: the same as parsing it whole, and no further than a broken one."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmamba.data import json_source
from vlmamba.data.faults import BadSampleError
from vlmamba.data.json_source import JsonSource

TEXTS = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def source(tmp_path, text, name="data.json"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return JsonSource(tmp_path / name, tmp_path)


def contents(source):
    """Every element, or the line of the fault in it."""
    read = []
    for k in range(len(source)):
        try:
            read.append(source.read(k))
        except BadSampleError as error:
            read.append(int(error.detail.split(":")[1]))
    return read


@settings(max_examples=40, deadline=None)
@given(
    st.lists(VALUES, max_size=6), st.sampled_from([None, 0, 2]), st.booleans(), st.integers(5, 60)
)
def test_a_list_holds_what_json_reads_whatever_the_block(
    tmp_path_factory, values, indent, ascii_only, block
):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_source, "_BLOCK", block)
        found = source(tmp_path_factory.mktemp("list"), f" \n{text}\n")
    assert contents(found) == values
    lines = f" \n{text}".split("\n")
    for k, value in enumerate(values):
        if isinstance(value, str) and value:
            line = lines[int(found.place(k).rsplit(":", 1)[1]) - 1]
            assert json.dumps(value, ensure_ascii=ascii_only) in line


@pytest.mark.parametrize("block", range(1, 16))
def test_a_number_cut_by_a_block_is_one_number(tmp_path, monkeypatch, block):
    monkeypatch.setattr(json_source, "_BLOCK", block)
    assert contents(source(tmp_path, "[12345, 67890]")) == [12345, 67890]


@settings(max_examples=20, deadline=None)
@given(st.lists(VALUES, max_size=6), st.booleans())
def test_lines_hold_one_sample_each(tmp_path_factory, values, ascii_only):
    lines = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    found = source(tmp_path_factory.mktemp("lines"), "\n\n".join(lines), "data.jsonl")
    assert contents(found) == values
    assert [int(found.place(k).rsplit(":", 1)[1]) for k in range(len(found))] == [
        2 * k + 1 for k in range(len(values))
    ]


def test_a_byte_order_mark_is_no_part_of_a_sample(tmp_path):
    assert contents(source(tmp_path, b'\xef\xbb\xbf[{"id": 1}]')) == [{"id": 1}]
    assert contents(source(tmp_path, b'\xef\xbb\xbf{"id": 1}\n{"id": 2}', "x.jsonl")) == [
        {"id": 1},
        {"id": 2},
    ]


SAMPLES = [{"id": "a", "n": [1]}, {"id": "b", "n": [{"from": "x"}]}, {"id": "c"}]


@pytest.mark.parametrize("broken", ['"id": "b" ', '"id": "b', '"id" "b",', '"id": "b",}'])
def test_after_a_broken_sample_the_next_ones_are_found(tmp_path, broken):
    text = json.dumps(SAMPLES, indent=1)
    assert text.count('"id": "b",') == 1
    text = text.replace('"id": "b",', broken)
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads(text)
    assert contents(source(tmp_path, text)) == [SAMPLES[0], caught.value.lineno, SAMPLES[2]]


def test_a_file_that_was_cut_off_ends_in_a_broken_sample(tmp_path):
    text = json.dumps(SAMPLES, indent=1)
    inside = contents(source(tmp_path, text[: text.index('"c"') + 1]))
    assert inside[:2] == SAMPLES[:2]
    assert len(inside) == 3
    between = contents(source(tmp_path, text[: text.rindex("}") + 1]))
    assert between[:3] == SAMPLES
    assert len(between) == 4


@pytest.mark.parametrize("rest", ["junk", "]", ', {"id": 5}'])
def test_what_follows_the_list_is_a_fault(tmp_path, rest):
    found = contents(source(tmp_path, json.dumps(SAMPLES) + rest))
    assert found[:3] == SAMPLES
    assert found[3] == 1


def test_bytes_that_are_no_text_are_a_fault(tmp_path):
    found = source(tmp_path, b'[{"id": "\xff"}, {"id": 2}]')
    assert contents(found)[1] == {"id": 2}
    with pytest.raises(BadSampleError, match=r"not valid JSON: .*data\.json:1"):
        found.read(0)


def test_nesting_without_end_is_a_fault(tmp_path):
    deep = '{"a":' * 100_000
    found = source(tmp_path, f'[{deep}, {{"id": 2}}]')
    assert contents(found) == [1, {"id": 2}]
    assert contents(source(tmp_path, f'{deep}\n{{"id": 2}}', "x.jsonl")) == [1, {"id": 2}]


def test_a_large_file_is_looked_through_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("vlmamba.data.cache.WORTH_KEEPING", 1)
    first = source(tmp_path, json.dumps(SAMPLES))
    with monkeypatch.context() as patch:
        patch.setattr(json_source, "elements", lambda file: pytest.fail("looked through again"))
        assert contents(JsonSource(tmp_path / "data.json", tmp_path)) == contents(first) == SAMPLES
    shorter = json.dumps(SAMPLES[:1]).ljust(len(json.dumps(SAMPLES)))  # the size stays
    (tmp_path / "data.json").write_text(shorter)
    os.utime(tmp_path / "data.json", (1, 1))
    assert contents(JsonSource(tmp_path / "data.json", tmp_path)) == SAMPLES[:1]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("vlmamba.data.cache.WORTH_KEEPING", 1)
    assert contents(source(tmp_path, json.dumps(SAMPLES))) == SAMPLES
