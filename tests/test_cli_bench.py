"""`vlmamba bench` on a CPU: ratios, in seconds."""

import json
import os

import pytest

from vlmamba.cli import main
from vlmamba.config import MambaConfig
from vlmamba.measure import short


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(short, "SMALL", MambaConfig(d_model=8, n_layer=1, vocab_size=16))
    monkeypatch.setattr(short, "SMALL_TOKENS", 4)
    monkeypatch.setattr(short, "REPEATS", {"cpu": 1})
    monkeypatch.setattr(short, "WRITTEN", {"cpu": 3})


def test_every_figure_is_a_ratio_and_leaves_the_backend_as_it_was(capsys):
    before = os.environ.get("VLMAMBA_BACKEND")
    assert main(["bench", "--device", "cpu", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {f["what"] for f in report["figures"]} == {"scan", "decode", "prefill", "train"}
    assert all(f["times_as_fast"] > 0 and f["milliseconds"] is None for f in report["figures"])
    assert os.environ.get("VLMAMBA_BACKEND") == before


def test_in_words(capsys):
    assert main(["bench", "train", "prefill", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["train", "prefill"]
    assert all("x as fast as reference" in line for line in lines[1:])


def test_what_is_not_known_is_one_line(capsys):
    assert main(["bench", "speed"]) == 2
    assert capsys.readouterr().err == (
        "vlmamba: speed is unknown: use scan, decode, prefill, train\n"
    )
