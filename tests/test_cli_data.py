"""`vlmamba data check` as a user meets it: what it prints, where, and the code it ends with."""

import json

import pytest
from data import faulty_set
from data.faulty_set import FAULTY, GOOD

from vlmamba.cli import main
from vlmamba.commands import data as command


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs the command in a folder with a faulty set; gives exit code, standard output and error."""
    faulty_set.write(tmp_path)
    (tmp_path / "good.json").write_text(json.dumps(GOOD))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["data", "check", *arguments])
        return code, *capfd.readouterr()

    return run


def test_a_good_set_exits_0(run):
    code, out, err = run("good.json", "--images", "images")
    assert code == 0
    assert out.startswith("good.json: 2 samples, 1 different pictures\n")
    assert out.endswith("no sample is bad\n")
    assert "samples: 2 of 2 read" in err
    assert "pictures: 1 of 1 decoded" in err


def test_a_faulty_set_exits_1_and_names_the_faults(run):
    code, out, _ = run("data.jsonl", "--images", "images", "--max-length", "512")
    assert code == 1
    assert "data.jsonl:15: Expecting property name" in out
    assert all(reason in out for reason in FAULTY)
    assert run("data.jsonl", "--images", "images", "--limit", "0.9")[0] == 0
    assert run("data.jsonl", "--images", "images", "--limit", "0.5")[0] == 1


def test_json_is_all_that_json_prints(run):
    code, out, err = run("data.jsonl", "--images", "images", "--json", "--allow", "missing")
    assert (code, err) == (1, "")
    report = json.loads(out)
    assert not report["ok"]
    assert report["faults"]["missing"]["examples"][0]["place"] == "data.jsonl:8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.json", "--images", "images"], "none.json: no such data file"),
        (["good.json"], "good.json needs the folder that its picture paths start from"),
        (["images"], "images holds no .tar or .parquet shard"),
        (["good.json", "--images", "none"], "none: no such folder of pictures"),
        (["object.json", "--images", "images"], "object.json holds no list of samples"),
        (["blank.json", "--images", "images"], "blank.json holds no list of samples"),
        (["good.json", "--images", "images", "--limit", "2"], "--limit"),
        (["good.json", "--images", "images", "--max-length", "0"], "--max-length"),
        (["good.json", "--images", "images", "--allow", "all"], "there is no fault 'all'"),
        (["good.json", "--images", "images", "--model", "nowhere"], "nowhere: no such model"),
    ],
)
def test_wrong_use_exits_2_with_one_line(run, tmp_path, arguments, message):
    (tmp_path / "object.json").write_text('{"id": 1}')
    (tmp_path / "blank.json").touch()
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("vlmamba: ")
    assert message in err
    assert err.count("\n") == 1


def test_ctrl_c_leaves_a_report_of_what_was_read(run, monkeypatch):
    class Pressed:
        def __enter__(self):
            return lambda: True

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(command, "stoppable", Pressed)
    code, out, _ = run("good.json", "--images", "images")
    assert code == 130
    assert out.endswith("stopped before the end: 0 samples and 0 pictures read\n")
    assert json.loads(run("good.json", "--images", "images", "--json")[1])["complete"] is False
