"""The ablations: rows run once each, share their work, go on where they stopped, and are compared pair by pair."""

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlmamba.ablation import jobs, outcomes, report, rows
from vlmamba.ablation.exam import Exam, find_sets, kind_of
from vlmamba.ablation.lab import Lab
from vlmamba.ablation.scale import find_scale
from vlmamba.cli import main
from vlmamba.engine import Sampling
from vlmamba.eval.intervals import repeated_interval
from vlmamba.eval.paper_table import ABLATED, ABLATIONS, VL_MAMBA
from vlmamba.model import VLMamba
from vlmamba.vlm import VLM

SMALL = [
    "--recipe", "tiny", "--limit", "6", "--set", "steps=1", "--set", "batch_size=4",
    "--set", "drawn=24", "--set", "boxes=12", "--set", "count=24",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Table 4 with two seeds, made by the command."""
    home = tmp_path_factory.mktemp("ablation")
    assert main(["ablate", "4", *SMALL, "--seeds", "2", "-o", str(home)]) == 0
    return home


def test_every_row_is_run_with_every_seed(home, capsys):
    made = {path.name: path.stat().st_mtime_ns for path in (home / "runs").glob("*.json")}
    names = [row.variant for row in rows.TABLES[4].rows]
    assert set(made) == {f"{name}-seed-{seed}.json" for name in names for seed in (0, 1)}
    # Nothing is done again, and a third seed is added to what there is.
    assert main(["ablate", "4", *SMALL, "--seeds", "3", "--json", "-o", str(home)]) == 0
    again = {path.name: path.stat().st_mtime_ns for path in (home / "runs").glob("*.json")}
    assert len(again) == 12
    assert all(again[name] == time for name, time in made.items())
    found = json.loads(capsys.readouterr().out)
    assert found["sets"] == dict.fromkeys(
        ("drawn_places", "drawn_counts", "drawn_sizes", "drawn_words", "drawn_shapes", "boxes"), 6
    )
    figures = found["tables"]["4"]["figures"]
    gained = {(f["variant"], f["base"]) for f in figures if f["group"] == "all sets"}
    assert ("vss-l2-bsm", "mlp-wide") in gained
    assert {f["seeds"] for f in figures} == {3}


def test_reports_in_every_form(home, tmp_path):
    for name in ("report.md", "report.tex", "report.csv", "report.html"):
        assert main(["report", str(home), "-o", str(tmp_path / name)]) == 0
    text = (tmp_path / "report.md").read_text()
    assert "## Table 4: connector" in text
    assert "| VSS-L2 | 41,024 |" in text
    assert "Table 5" in text  # BSM is one of its rows, too
    assert r"$\pm$" in (tmp_path / "report.tex").read_text()
    assert "4,paper: VSS-L2,,vqav2,76.6" in (tmp_path / "report.csv").read_text()
    assert "<svg" in (tmp_path / "report.html").read_text()
    plot = ElementTree.parse(home / "report.svg").getroot()
    assert any("gained over MLP" in (mark.text or "") for mark in plot.iter())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["6"], "there is no table '6' to repeat: use 2, 3, 4, 5 or all"),
        (["4", "--recipe", "mimi"], "there is no recipe 'mimi' for ablations: did you mean mini?"),
        (["4", "--seeds", "0"], "seeds must be at least 1, got 0"),
        (["4", "--recipe", "tiny", "--set", "stepz=1"], "did you mean steps?"),
        (["4", "--set", "packs=nowhere"], "nowhere holds no training packs"),
    ],
)
def test_bad_usage_is_one_line(arguments, complaint, tmp_path, capsys):
    assert main(["ablate", *arguments, "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1


def test_a_folder_keeps_its_settings(home, capsys):
    changed = [word.replace("batch_size=4", "batch_size=8") for word in SMALL]
    assert main(["ablate", "4", *changed, "-o", str(home)]) == 2
    assert "was begun with" in capsys.readouterr().err


def test_a_dry_run_does_nothing(tmp_path, capsys):
    assert main(["ablate", "all", "--dry-run", "-o", str(tmp_path / "new")]) == 0
    assert not (tmp_path / "new").exists()
    assert capsys.readouterr().out.startswith("12 models, each with 3 seeds: 36 runs")


def test_a_broken_run_is_named(home, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / outcomes.PLAN).write_text("{}")
    run = json.loads((home / "runs" / "mlp-seed-0.json").read_text())
    run["outcomes"]["boxes"] = "9:ff"
    (tmp_path / "runs" / "mlp-seed-0.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match=r"mlp-seed-0.json: .* does not hold 9 outcomes"):
        outcomes.read_outcomes(tmp_path)
    one = json.loads((home / "runs" / "mlp-seed-1.json").read_text())
    (tmp_path / "runs" / "mlp-seed-0.json").write_text(json.dumps(one | {"exam": "another"}))
    (tmp_path / "runs" / "mlp-seed-1.json").write_text(json.dumps(one))
    with pytest.raises(ValueError, match="different questions"):
        outcomes.read_outcomes(tmp_path)


def test_outcomes_survive_packing():
    right = [0, 0, 1, 1, 0, 1, 0, 0, 0]
    assert outcomes.unpack(outcomes.pack(right)) == right


def test_the_exam_asks_as_a_user_does(home):
    """The answers from the towers' kept features are those of the whole model asked picture by picture."""
    scale = find_scale("tiny")
    lab = Lab(scale, home, torch.device("cpu"), limit=6)
    torch.manual_seed(3)
    model = VLMamba(scale.model(rows.VARIANTS["vss-l2-csm"])).eval()
    with torch.no_grad():  # so that what is said depends on what is seen
        for block in model.model.language_model.layers:
            block.mixer.in_proj.weight.mul_(10)
            block.mixer.out_proj.weight.mul_(100)
        model.lm_head.weight.normal_()
    vlm = VLM(model, lab.processor)
    sets = find_sets(None, 64, 6)
    questions = [q for asked in sets.values() for q in asked]
    said = vlm.ask_many([(q.picture, q.text) for q in questions], Sampling(max_new_tokens=16))
    # Whatever it says is now the right answer to every second question.
    sets = {
        name: [
            replace(q, answer=said[questions.index(q)] if k % 2 else "no such answer")
            for k, q in enumerate(asked)
        ]
        for name, asked in sets.items()
    }
    exam = Exam.prepare(sets, lab.processor, torch.device("cpu"))
    features = model.model.vision_tower(exam.pixel_values.float())
    found = exam.take(model, lab.processor, features)
    assert list(found) == list(sets)
    right = [r for name in found for r in found[name][1::2]]
    assert sum(right) >= len(right) - 2  # pictures are kept in half precision
    assert not any(r for name in found for r in found[name][::2])
    confused = exam.take(model, lab.processor, features.flip(0))
    assert sum(sum(confused[name]) for name in found) < sum(right) / 2


def test_parts_are_the_same_for_all_rows(home):
    """A run's tower and language model are those that were made once, and training leaves the tower alone."""
    parts = {path.name for path in (home / "parts").glob("*.safetensors")}
    assert parts == {"tower-siglip.safetensors", "language-large.safetensors"}


def test_both_layouts_are_equal_but_for_the_layout():
    scale = find_scale("mini")
    one, other = scale.vision("siglip"), scale.vision("clip")
    differing = {k for k in vars(one) if getattr(one, k) != getattr(other, k)}
    assert differing == {"layout", "hidden_act", "layer_norm_eps"}
    wide, narrow = (
        VLMamba(scale.model(rows.VARIANTS[name])).model.connector
        for name in ("mlp-wide", "vss-l2-bsm")
    )
    sizes = [sum(p.numel() for p in part.parameters()) for part in (wide, narrow)]
    assert abs(sizes[0] - sizes[1]) < 0.002 * sizes[1]


def test_rows_name_the_papers_rows():
    for number, table in rows.TABLES.items():
        assert [row.paper for row in table.rows if row.paper] == list(ABLATIONS[number])
        assert set(table.bases) <= {row.variant for row in table.rows}
    assert ABLATIONS[4]["VSS-L2"] == {task: VL_MAMBA.scores[task] for task in ABLATED}
    assert rows.variants_of(rows.choose_tables(["all"])) == list(rows.VARIANTS.values())


def test_kinds_of_sets():
    named = ("tiny64_dev", "yes_no_tiny64_random", "drawn_words", "nlvr_dev", "drawn_counts")
    kinds = ["naming", "yes or no", "reading", "places and counts", "places and counts"]
    assert list(map(kind_of, named)) == kinds


def test_intervals_cover_questions_and_seeds():
    rng = np.random.default_rng(0)
    truth, covered = 0.6, 0
    for _ in range(300):  # seeds shift every question alike, questions differ in how hard they are
        shift = rng.normal(0, 0.03, (3, 1))
        hard = rng.normal(truth, 0.2, 200)
        mean, half = repeated_interval([hard + shift, hard[:100] + shift], scale=1)
        covered += abs(mean - truth) <= half
    assert 275 <= covered <= 300
    same = np.tile([1.0, 0.0, 1.0, 1.0], (3, 1))
    mean, half = repeated_interval([same])
    assert mean == 75
    assert half == pytest.approx(
        1.96 * 100 * 0.25
    )  # of the questions alone: sd 0.5 over the root of 4
    mean, half = repeated_interval([np.array([[0.0] * 9, [1.0] * 9, [2.0] * 9])], scale=1)
    assert (mean, half) == (1, pytest.approx(4.303 / np.sqrt(3), rel=1e-3))
    with pytest.raises(ValueError, match="at least one scored unit"):
        repeated_interval([np.empty((3, 0))])


def test_differences_are_paired(home):
    """Equal runs differ by nothing with certainty, however few the questions."""
    runs = outcomes.read_outcomes(home)
    twin = {("mlp-wide", s): runs.runs["mlp", s] for s in runs.seeds("mlp")}
    told = report.AblationReport(replace(runs, runs=runs.runs | twin), [rows.TABLES[4]])
    figure = told.figure("mlp-wide", "all sets", "mlp")
    assert figure is not None
    assert (figure.value, figure.half) == (0, 0)
    alone = told.figure("mlp", "all sets")
    assert alone is not None
    scores = [r.mean() for s in runs.seeds("mlp") for r in runs.runs["mlp", s].values()]
    assert alone.value == pytest.approx(100 * np.mean(scores))


WORKER = """
import os, sys, time
from pathlib import Path
from vlmamba.ablation.jobs import Job, trying_lock, work
home = Path(sys.argv[1])
def job(name, *needs):
    def do():
        if os.fork() == 0:
            time.sleep(60)  # what a job forks lives on, without its lock
            os._exit(0)
        with (home / "done").open("a") as file:
            file.write(f"{name} {os.getpid()}\\n")
        time.sleep(0.1)
        (home / name).touch()
    return Job("run", home / name, do, tuple(home / need for need in needs))
jobs = [job("part"), *(job(f"run-{k}", "part") for k in range(12))]
held = jobs[0].result.with_name("part.lock")
assert work(jobs)
with trying_lock(held) as free:
    assert free
"""


def test_work_is_shared_and_never_done_twice(tmp_path):
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], start_new_session=True)
        for _ in range(3)
    ]
    try:
        assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    finally:
        for worker in workers:
            os.killpg(worker.pid, signal.SIGKILL)
    done = [line.split()[0] for line in (tmp_path / "done").read_text().splitlines()]
    assert sorted(done) == sorted(["part", *(f"run-{k}" for k in range(12))])
    assert done[0] == "part"


def test_nothing_begins_too_late(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])

    def job(k: int) -> jobs.Job:
        def do() -> None:
            now[0] += 10
            (tmp_path / str(k)).touch()

        return jobs.Job("run", tmp_path / str(k), do)

    assert not jobs.work([job(k) for k in range(9)], deadline=35)
    assert len(list(tmp_path.glob("[0-9]"))) == 3  # a fourth would end at 40
    assert re.fullmatch(r"\d", min(path.name for path in tmp_path.glob("[0-9]")))
