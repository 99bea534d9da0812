"""The case files agree with our scorers and label builder, and the command says where one does not."""

import importlib.util
import json
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted((TESTS / "golden").glob("*.json"))

_spec = importlib.util.spec_from_file_location("golden_cases", TESTS / "golden_cases.py")
assert _spec
assert _spec.loader
golden_cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden_cases)


def test_all_benchmarks_have_cases() -> None:
    names = {json.loads(path.read_text())["benchmark"] for path in FILES}
    assert names >= {kind[0] for kind in golden_cases.CHECKS} - {"llava_train"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("field", ["expected", "variants"])
def test_cases_agree(path: Path, field: str) -> None:
    checks = golden_cases.CHECKS if field == "expected" else golden_cases.VARIANTS
    num_agreeing, num_cases, lines = golden_cases.run(path, checks, field)
    assert lines == []
    assert num_agreeing == num_cases
    assert num_cases or field == "variants"


def test_a_mismatch_and_an_unknown_kind_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        {"id": "good", "kind": "item", "input": {"text": "no"}, "expected": "no"},
        {"id": "bad", "kind": "item", "input": {"text": "no"}, "expected": "yes"},
        {"id": "unknown", "kind": "never heard of", "input": {}, "expected": 1},
    ]
    path = tmp_path / "pope.json"
    path.write_text(json.dumps({"benchmark": "pope", "cases": cases}))
    assert golden_cases.main([str(path)]) == 1
    printed = capsys.readouterr().out
    assert "pope: 1 of 3 agree" in printed
    assert "bad item: ours 'no', expected 'yes'" in printed
    assert "never heard of" in printed
    assert golden_cases.main([]) == 2


@pytest.mark.parametrize(
    ("ours", "expected", "equal"),
    [
        (0.5, 0.5 + 1e-7, True),
        (0.5, 0.5001, False),
        (1, 1.0, True),
        (True, 1, False),
        (None, False, False),
        ("1", 1, False),
        (float("nan"), "NaN", True),
        ({"f1": 0.0, "TP": 1}, {"error": "ZeroDivisionError", "TP": 1}, True),
        ({"f1": 0.0}, {"precision": 0.0}, False),
        ([1, 2], [1, 2, 3], False),
    ],
)
def test_agreement_is_strict(ours: object, expected: object, equal: bool) -> None:
    assert golden_cases.agrees(ours, expected) is equal
