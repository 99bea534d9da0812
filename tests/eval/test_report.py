"""Reports: from the scores of every benchmark to tables that say what they are, and a diff that is paired."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layouts import LAYOUTS, write_json, write_lines

from vlmamba.cli import main
from vlmamba.eval.paired import compare
from vlmamba.eval.paper_table import COLUMNS, ROWS, VL_MAMBA
from vlmamba.eval.report import as_csv, as_latex, as_markdown, make_report, paper_table
from vlmamba.eval.runs import read_runs
from vlmamba.eval.score import PARTIAL, score_file, write_scores
from vlmamba.eval.tables import Table, latex_text, to_html, to_markdown
from vlmamba.eval.task import Sample, Scores
from vlmamba.eval.tasks import NAMES, mme, pope


def sample(number: object, score: float, parsed: str = "yes", **other: str) -> Sample:
    """A sample whose correct answer is yes."""
    given = {"category": "", "prompt": "Is it?", "raw": parsed, "gold": "yes", "rule": "r"} | other
    return Sample(id=str(number), parsed=parsed, score=score, **given)


def scores(task: str, samples: list[Sample], **other: object) -> Scores:
    """Scores of a benchmark whose metric is the mean."""
    value = 100 * float(np.mean([s.score for s in samples]))
    made = Scores(task, "official", "accuracy", value, (0.0, 100.0), {}, samples, len(samples))
    return replace(made, **other)


def write_run(folder: Path, *all_scores: Scores) -> Path:
    for one in all_scores:
        write_scores(one, folder / one.task)
    return folder


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over small data of all ten benchmarks, scored as `vlmamba score` does."""
    root = tmp_path_factory.mktemp("ten")
    for task, make in LAYOUTS.items():
        layout = make(root / "data" / task)
        made = score_file(task, layout.answers, layout.data, grades=layout.grades)
        write_scores(made, root / "run" / task)
    return root / "run"


@pytest.fixture
def report_of(capfd: pytest.CaptureFixture[str]):
    """Runs `vlmamba report`; gives its exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["report", *map(str, arguments)])
        return code, *capfd.readouterr()

    return call


def test_the_papers_row_is_the_papers() -> None:
    assert tuple(COLUMNS) == NAMES
    assert list(VL_MAMBA.scores.values()) == [
        *(76.6, 56.2, 65.4, 48.9, 84.4, 1369.6, 57.0, 32.6, 30.6, 60.5)
    ]
    assert len(ROWS) == 15
    llava = next(row for row in ROWS if row.llm == "Vicuna-13B" and row.method == "LLaVA-1.5")
    assert llava.scores["seed"] == 68.2
    assert "mmmu" not in llava.scores


def test_all_ten_stand_below_the_paper(ten: Path) -> None:
    run = read_runs([ten])[0]
    table = paper_table([run])
    assert table.header[4:] == list(COLUMNS.values())
    assert table.rows[-2][0] == "VL-Mamba (paper)"
    expected = [f"{run.scores[task].value:.1f}" for task in NAMES]
    assert table.rows[-1][4:] == expected
    assert {len(row) for row in table.rows} == {14}


def test_markdown_holds_every_score_interval_and_category(ten: Path, report_of) -> None:
    code, text, error = report_of(ten)
    assert (code, error) == (0, "")
    assert (
        "| POPE | run | 55.6 | 0.0 to 66.7 | 84.4 | 6 | 0 | mean F1 of the categories | official |"
        in text
    )
    assert "| random | run | 1 | 1 | 0 | 0 | 0.5000 | 0.5000 | 1.0000 | 0.6667 | 1.0000 |" in text
    assert "| structural: query | 50.00 of 2 |" in text
    widths = {}
    for title, body in re.findall(r"## (.+)\n\n((?:\|.*\n)+)", text):
        widths[title] = {len(re.findall(r"(?<!\\)\|", line)) for line in body.splitlines()}
    assert all(len(counts) == 1 for counts in widths.values())
    assert len(widths) >= 10


def test_csv_gives_the_numbers_in_full(ten: Path, report_of) -> None:
    _, text, _ = report_of(ten, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    [gqa] = [r for r in rows if (r["run"], r["benchmark"], r["table"]) == ("run", "gqa", "score")]
    assert float(gqa["value"]) == 200 / 3
    assert (gqa["low"], gqa["high"], gqa["partial"]) == ("0.0", "100.0", "no")
    paper = [r for r in rows if r["run"] == "paper: VL-Mamba (Mamba LLM-2.8B)"]
    assert [float(r["value"]) for r in paper] == list(VL_MAMBA.scores.values())


def test_json_is_the_report_as_data(ten: Path, report_of) -> None:
    content = json.loads(report_of(ten, "--json")[1])
    assert content["runs"][0]["scores"]["textvqa"]["value"] == 65.0
    assert len(content["paper"]) == 15


def test_latex_is_balanced_and_escaped(ten: Path, tmp_path: Path, report_of) -> None:
    assert report_of(ten, "-o", tmp_path / "t.tex")[0] == 0
    text = (tmp_path / "t.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") > 10
    assert text.count("{") == text.count("}")
    assert not re.search(r"(?<!\\)[%#_]", text.split("\n", 1)[1])
    assert latex_text("50 % of a_b & {c}~\\†") == (
        r"50 \% of a\_b \& \{c\}\textasciitilde{}\textbackslash{}$^{\dagger}$"
    )


def test_cells_cannot_break_a_table() -> None:
    table = Table("t", ["a", "b"], [["x|y\nz", "<b>"]], "lr")
    assert r"| x\|y z | <b> |" in to_markdown(table)
    assert '<td class="r">&lt;b&gt;</td>' in to_html(table)


def test_a_partial_score_is_marked_in_every_output(tmp_path: Path, report_of) -> None:
    part = scores("gqa", [sample(n, 1.0) for n in range(4)], num_questions=10, num_missing=6)
    whole = scores("seed", [sample(n, 1.0) for n in range(4)])
    run = write_run(tmp_path / "run", part, whole)
    text = report_of(run)[1]
    assert "| GQA | run (partial) | 100.0† | 0.0 to 100.0 |" in text
    assert "| SEED | run | 100.0 | 0.0 to 100.0 |" in text
    assert "† run, GQA: partial: 6 of 10 questions have no answer" in text
    assert re.search(r"\| run \(partial\) \| - \| - \| - \| - \| 100.0† \|", text)
    assert r"100.0$^{\dagger}$" in report_of(run, "--format", "latex")[1]
    rows = csv.DictReader(io.StringIO(report_of(run, "--format", "csv")[1]))
    marked = {row["benchmark"]: row for row in rows if row["run"] == "run"}
    assert (marked["gqa"]["partial"], marked["seed"]["partial"]) == ("yes", "no")
    assert "6 of 10" in marked["gqa"]["remarks"]
    content = json.loads(report_of(run, "--json")[1])["runs"][0]
    assert content["scores"]["gqa"]["partial"] is content["partial"] is True
    assert report_of(run, "-o", tmp_path / "p.html")[0] == 0
    page = (tmp_path / "p.html").read_text()
    assert '<td class="r">100.0†</td>' in page
    assert "run (partial)</title>" in page


def test_a_limited_run_is_partial_by_its_note_or_flag(tmp_path: Path) -> None:
    noted = scores("gqa", [sample(1, 1.0)], notes=[f"{PARTIAL}: 1 of 12,578 questions asked"])
    folder = write_run(tmp_path / "a", noted, scores("pope", [sample(1, 1.0)]))
    content = json.loads((folder / "pope" / "scores.json").read_text())
    write_json(folder / "pope" / "scores.json", content | {"partial": True})
    text = as_markdown(make_report(read_runs([folder])))
    assert "† a, GQA: partial: 1 of 12,578 questions asked" in text
    assert "† a, POPE: partial: not all questions were asked" in text


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    one = scores("pope", [sample(n, 1.0) for n in range(3)])
    moved = [sample(n, 1.0, prompt="Was it?") for n in range(2)]
    two = scores("pope", moved, protocol="lmms-eval", metric="F1 of all")
    folders = [write_run(tmp_path / "one", one), write_run(tmp_path / "two", two)]
    for folder, digest in zip(folders, ("a" * 64, "b" * 64), strict=True):
        files = {"labels.json": {"bytes": 1, "sha256": digest}}
        asked = {"files": files, "parser_sha256": digest, "prompts_sha256": digest}
        write_json(folder / "manifest.json", {"tasks": {"pope": asked}, "model": {"name": "mini"}})
    report = make_report(read_runs(folders))
    remarks = "\n".join(report.remarks)
    assert "POPE: not comparable, different protocols: one official, two lmms-eval" in remarks
    assert "different metrics: one accuracy, two F1 of all" in remarks
    assert "different numbers of questions: one 3, two 2" in remarks
    assert re.search(r"different files: one [0-9a-f]{10}, two [0-9a-f]{10}", remarks)
    assert "different parsers: one aaaaaaaaaa, two bbbbbbbbbb" in remarks
    assert "2 questions of two have another prompt or correct answer than those of one" in remarks
    for write in (as_markdown, as_csv, as_latex):
        assert "different protocols" in write(report)
    assert "- two: the model is mini" in as_markdown(report)


def test_runs_alike_bring_no_remark(ten: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    for run in read_runs([ten]):
        write_run(copy, *run.scores.values())
    report = make_report(read_runs([ten, copy]), diff=True)
    assert report.remarks == []
    assert len({run.name for run in report.runs}) == 2
    assert len(report.comparisons) == 10
    for one in report.comparisons:
        assert (one.difference, one.interval) == (0, (0, 0))
        assert not one.gained + one.lost + one.reworded


@pytest.mark.parametrize("task", [name for name in NAMES if name != "scienceqa"])
def test_a_diff_is_of_the_benchmarks_own_metric(ten: Path, task: str) -> None:
    made = read_runs([ten])[0].scores[task]
    one = compare(made, made)
    assert one.metric == made.metric
    assert one.before == pytest.approx(made.value, abs=0.01)


def test_where_samples_do_not_give_the_metric_their_mean_is_compared(ten: Path) -> None:
    made = read_runs([ten])[0].scores["scienceqa"]
    assert compare(made, made).metric == "mean sample score"
    official = read_runs([ten])[0].scores["pope"]
    assert compare(official, replace(official, protocol="lmms-eval")).metric == "mean sample score"
    moved = [replace(sample, category="elsewhere") for sample in official.samples]
    assert compare(official, replace(official, samples=moved)).metric == "mean sample score"
    wrong = replace(official, value=official.value + 1)
    assert compare(official, wrong).metric == "mean sample score"


def test_a_diff_counts_what_changed_and_pairs_the_questions() -> None:
    generator = np.random.default_rng(0)
    old = (generator.random(2000) < 0.6).astype(float)
    new = np.where(generator.random(2000) < 0.05, 1 - old, old)
    before = scores("gqa", [sample(n, float(x), str(x)) for n, x in enumerate(old)])
    after = scores("gqa", [sample(n, float(x), str(x)) for n, x in enumerate(new)])
    one = compare(before, after)
    assert len(one.gained) == int((new > old).sum())
    assert len(one.lost) == int((new < old).sum())
    assert one.difference == pytest.approx(100 * (new - old).mean())
    half = 1.96 * 100 * (new - old).std() / np.sqrt(2000)
    assert one.interval[0] == pytest.approx(one.difference - half, abs=0.1)
    assert one.interval[1] == pytest.approx(one.difference + half, abs=0.1)


def test_a_diff_of_pope_is_that_of_its_mean_f1() -> None:
    generator = np.random.default_rng(1)
    categories = [c for c in ("random", "popular", "adversarial") for _ in range(300)]
    golds = generator.choice(["yes", "no"], 900)

    def answered(right: float) -> Scores:
        said = np.where(generator.random(900) < right, golds, np.where(golds == "yes", "no", "yes"))
        samples = [
            sample(n, float(s == g), s, gold=g, category=c)
            for n, (s, g, c) in enumerate(zip(said, golds, categories, strict=True))
        ]
        f1 = [
            pope.metrics(said[k : k + 300].tolist(), golds[k : k + 300].tolist())["f1"]
            for k in (0, 300, 600)
        ]
        return scores("pope", samples, value=100 * float(np.mean(f1)), metric="mean F1")

    before, after = answered(0.7), answered(0.9)
    one = compare(before, after)
    assert one.metric == "mean F1"
    assert one.difference == pytest.approx(after.value - before.value)
    assert one.interval[0] < one.difference < one.interval[1]
    assert one.interval[0] > 10


def test_a_diff_of_mme_keeps_the_two_questions_of_a_picture_together() -> None:
    def answered(*right: float) -> Scores:
        samples = [
            sample(f"existence/{n // 2}.jpg#{n % 2 + 1}", x, category="existence")
            for n, x in enumerate(right)
        ]
        found = mme.PERCEPTION["existence"] and samples
        pairs = [(right[k], right[k + 1]) for k in range(0, len(right), 2)]
        value = 100 * (np.mean(right) + np.mean([a * b for a, b in pairs]))
        return scores("mme", found, value=float(value), metric="perception sum")

    one = compare(answered(1, 0, 1, 1), answered(1, 1, 0, 1))
    assert one.metric == "perception sum"
    assert (one.before, one.after, one.difference) == (125, 125, 0)
    assert (one.gained, one.lost) == (["existence/0.jpg#2"], ["existence/1.jpg#1"])
    assert one.interval == (-150, 150)


def test_a_diff_looks_at_common_questions_alone(tmp_path: Path, report_of) -> None:
    old = scores("gqa", [sample(n, 1.0) for n in range(6)])
    new = scores("gqa", [sample(n, 0.0, "no") for n in range(3, 8)])
    one = compare(old, new)
    assert (one.num_common, one.num_alone, one.lost) == (3, 5, ["3", "4", "5"])
    folders = [write_run(tmp_path / "old", old), write_run(tmp_path / "new", new)]
    text = report_of(*folders, "--diff")[1]
    assert "## new against old, on the questions of both" in text
    assert "| GQA | 3 | lost | yes (1) | no (0) | yes |" in text


def test_a_lone_surrogate_does_not_stop_a_report(tmp_path: Path, report_of) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for score, folder in enumerate(folders):
        write_run(folder, scores("gqa", [sample(1, float(score))]))
        broken = vars(sample(1, float(score))) | {"parsed": "\ud800"}
        write_lines(folder / "gqa" / "samples.jsonl", [broken])
    code, text, _ = report_of(*folders, "--diff")
    assert code == 0
    assert r"\ud800 (1)" in text
    assert report_of(*folders, "-o", tmp_path / "r.html")[0] == 0


BAD = {
    "nothing": (lambda run: run.parent / "no", "does not exist"),
    "a file": (lambda run: run / "gqa" / "scores.json", "is not a folder"),
    "no scores": (lambda run: run.parent, "no scores"),
    "inside": (lambda run: run / "gqa", "name the folder above it"),
}


@pytest.mark.parametrize("case", BAD)
def test_folders_that_are_no_runs(tmp_path: Path, report_of, case: str) -> None:
    pick, reason = BAD[case]
    run = write_run(tmp_path / "run", scores("gqa", [sample(1, 1.0)]))
    code, out, error = report_of(pick(run))
    assert (code, out) == (2, "")
    assert reason in error
    assert error.count("\n") == 1


BROKEN = {
    "malformed": ("scores.json", "{", "scores.json:1: malformed JSON"),
    "value": ("scores.json", {"value": "high"}, "value must be a number"),
    "boolean": ("scores.json", {"value": True}, "value must be a number"),
    "not a number": ("scores.json", {"value": float("nan")}, "value must be a number"),
    "interval": ("scores.json", {"interval": [1]}, "interval must hold two numbers"),
    "task": ("scores.json", {"task": "pope"}, "the scores of pope, not of gqa"),
    "tables": ("scores.json", {"tables": {"all": 3}}, "tables must hold objects"),
    "sample": ("samples.jsonl", '{"id": "1"}', "samples.jsonl:1: no field 'category'"),
    "line": ("samples.jsonl", "[]", "samples.jsonl:1: a JSON object is needed"),
    "gone": ("samples.jsonl", None, "does not exist; score gqa again"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(tmp_path: Path, report_of, case: str) -> None:
    name, content, reason = BROKEN[case]
    run = write_run(tmp_path / "run", scores("gqa", [sample(1, 1.0)]))
    path = run / "gqa" / name
    if content is None:
        path.unlink()
    elif isinstance(content, dict):
        write_json(path, json.loads(path.read_text()) | content)
    else:
        path.write_text(content)
    code, out, error = report_of(run, "-o", tmp_path / "out.md")
    assert (code, out) == (2, "")
    assert reason in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.md").exists()


def test_usage_that_cannot_be_meant(tmp_path: Path, report_of) -> None:
    run = write_run(tmp_path / "run", scores("gqa", [sample(1, 1.0)]))
    other = write_run(tmp_path / "other", scores("pope", [sample(1, 1.0)]))
    third = write_run(tmp_path / "third", scores("gqa", [sample("x", 1.0)]))
    for arguments, reason in [
        ((run, run), "is named twice"),
        ((run, "--diff"), "a diff compares two runs, not 1"),
        ((run, other, "--diff"), "run and other have no benchmark in common"),
        ((run, third, "--diff"), "the runs have no question in common"),
        ((run, "--format", "html"), "add -o report.html"),
        ((run, "--format", "md", "--json"), "exclude each other"),
        ((run, "--format", "pdf"), "'pdf' is not one of"),
        ((run, "-o", tmp_path), "is a folder"),
        ((run, "-o", tmp_path / "no" / "x.md"), "lies in no folder that exists"),
        ((), "Missing argument"),
    ]:
        code, out, error = report_of(*arguments)
        assert (code, out) == (2, ""), arguments
        assert reason in error
        assert error.count("\n") == 1
