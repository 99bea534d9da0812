"""Every fault is found once, named with its place, and counted; what is found does not depend on the processes."""

import json

import faulty_set
import pytest
from faulty_set import FAULTY, about
from tiny import tiny_processor

from vlmamba.data.check import check
from vlmamba.data.check_report import as_json, as_text, passes
from vlmamba.data.faults import FAULTS
from vlmamba.data.sources import open_source

PROCESSOR = tiny_processor()


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faulty")
    return open_source(faulty_set.write(directory), directory / "images")


def look(source, **options):
    return check(source, PROCESSOR, 512, processes=1, quiet=True, **options)


def test_each_fault_is_found_where_it_is(faulty):
    report = look(faulty)
    assert report.complete
    assert set(report.faults) == set(FAULTS)
    order = [*FAULTY, "bad-json"]
    for reason, fault in report.faults.items():
        assert fault.samples == 1, reason
        line = 3 + order.index(reason)
        assert fault.examples[0]["place"].endswith(f"data.jsonl:{line}")
        if reason != "bad-json":
            assert fault.examples[0]["id"] == FAULTY[reason]["id"]
    assert (report.samples, report.bad) == (15, 13)
    assert report.pictures == {0: 1, 1: 9}


def test_a_report_says_all_of_it(faulty):
    report = look(faulty)
    text = as_text(report, "data.jsonl", 512, 0.5)
    for words in (*FAULTS.values(), "gone.jpg", "data.jsonl:15", "1 with 0, 9 with 1"):
        assert words in text
    assert text.endswith("13 samples are bad, 86.7 %: above the limit of 50 %")
    data = json.loads(json.dumps(as_json(report, "data.jsonl", 512, 0.9)))
    assert data["ok"]
    assert data["faults"]["missing"]["examples"][0]["id"] == "g1"
    assert sum(bar["samples"] for bar in data["tokens"]["histogram"]) == 10
    assert data["tokens"]["histogram"][-1]["samples"] == 1


def test_processes_find_what_one_finds(faulty, monkeypatch):
    alone = look(faulty)
    monkeypatch.setattr("vlmamba.data.check._PIECE", 1)
    monkeypatch.setattr("vlmamba.data.check._WORTH_A_PROCESS", 1)
    assert check(faulty, PROCESSOR, 512, processes=2, quiet=True) == alone


def test_an_allowed_fault_is_reported_and_not_minded(faulty):
    allowed = [reason for reason in FAULTS if reason != "missing"]
    report = look(faulty, allowed=allowed)
    assert report.bad == 1
    assert report.faults["duplicate-id"].samples == 1
    assert not passes(report, 0)
    assert passes(report, 0.1)
    with pytest.raises(ValueError, match="no fault 'misspelt': use one of bad-json"):
        look(faulty, allowed=["misspelt"])


def test_a_picture_of_several_samples_is_opened_once_and_spoils_each(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([about("gone.jpg", str(k)) for k in range(3)]))
    report = look(open_source(tmp_path / "data.json", tmp_path))
    assert (report.faults["missing"].samples, report.faults["missing"].pictures) == (3, 1)
    assert (report.bad, report.different_pictures) == (3, 1)
    assert "a picture is missing (missing): 1 picture of 3 samples" in as_text(report, "x", 512, 0)


def test_a_stopped_check_reports_what_it_saw(faulty):
    report = look(faulty, stopped=lambda: True)
    assert not report.complete
    assert not passes(report, 1)
    assert "stopped before the end" in as_text(report, "x", 512, 1)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_text_holds_for_few_samples_and_none(tmp_path, count):
    (tmp_path / "data.jsonl").write_text(
        "\n".join(json.dumps(faulty_set.talk("Hi", "Ho", id=str(k))) for k in range(count))
    )
    report = look(open_source(tmp_path / "data.jsonl", tmp_path))
    verdict = "no sample is bad" if count else "there is no sample"
    assert as_text(report, "x", 512, 0).endswith(verdict)
    assert as_json(report, "x", 512, 0)["ok"] == bool(count)
