"""Benchmarks run on a small random model: every layout, limits, interruptions, several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import LAYOUTS, write_json
from PIL import Image
from test_vlm import random_vlm

from vlmamba import load
from vlmamba.checkpoints import save_model
from vlmamba.engine import Sampling
from vlmamba.eval import manifest
from vlmamba.eval.grading import Grading
from vlmamba.eval.journal import Journal
from vlmamba.eval.outcome import Outcome, conclude
from vlmamba.eval.plan import Album, batches, limited
from vlmamba.eval.prompts import SHORT
from vlmamba.eval.runner import Settings, describe_model, evaluate, make_plan
from vlmamba.eval.score import score_file
from vlmamba.eval.task import NotScorableError, Question
from vlmamba.eval.tasks import NAMES, benchmark
from vlmamba.vlm import VLM

LLAVA_FOLDERS = {"mme": "MME", "mmvet": "mm-vet", "seed": "seed_bench", "mmmu": "MMMU"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a folder of all benchmarks as LLaVA arranges it; POPE has more than a batch of questions."""
    home = tmp_path_factory.mktemp("home")
    vlm = random_vlm(dtype=torch.float32)
    save_model(home / "model", vlm.model, vlm.processor)
    for task, make in LAYOUTS.items():
        make(home / "data" / LLAVA_FOLDERS.get(task, task))
    large_pope(home / "large")
    return home


def large_pope(folder: Path, num_pictures: int = 7, num_questions: int = 10) -> None:
    """A POPE of many questions a picture, in the official files alone."""
    lines: list[dict[str, object]] = []
    (folder / "val2014").mkdir(parents=True)
    for number in range(num_pictures):
        name = f"COCO_val2014_{number:012d}.jpg"
        Image.new("RGB", (20, 14), (30 * number, 200 - 20 * number, 90)).save(
            folder / "val2014" / name
        )
        for k in range(num_questions):
            text = f"Is there a {'abcdefghijkl'[k]}{k * number} in the image?"
            line = {"question_id": len(lines) + 1, "image": name, "text": text}
            lines.append(line | {"label": "yes" if k % 2 else "no"})
    for category in ("adversarial", "random", "popular"):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"coco_pope_{category}.json").write_text(text)


@pytest.fixture(scope="module")
def vlm(home: Path) -> VLM:
    return load(home / "model", device="cpu")


def settings(home: Path, out: Path, **changes: Any) -> Settings:
    return replace(Settings(home / "data", out, max_new_tokens=6), **changes)


def run(vlm: VLM, home: Path, tasks: Sequence[str], chosen: Settings) -> list[Outcome]:
    plans = [make_plan(task, chosen) for task in tasks]
    return evaluate(vlm, describe_model(vlm, str(home / "model")), plans, chosen, quiet=True)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def written(out: Path) -> dict[str, bytes]:
    """All files of an output folder; tables have the time of their making in them."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.suffix != ".xlsx"
    }


@pytest.mark.parametrize("task", NAMES)
def test_every_benchmark_from_its_files_to_scores(
    task: str, home: Path, vlm: VLM, tmp_path: Path
) -> None:
    grades = None
    if task == "mmvet":
        grades = home / "data" / "mm-vet" / "grades.json"
    chosen = settings(home, tmp_path, grading=Grading(grades))
    (outcome,) = run(vlm, home, [task], chosen)
    questions, _ = benchmark(task).read(home / "data")
    answers = read_lines(tmp_path / task / "answers.jsonl")
    assert [answer["question_id"] for answer in answers] == [q.id for q in questions]
    scores, samples = (
        read(tmp_path / task / "scores.json"),
        read_lines(tmp_path / task / "samples.jsonl"),
    )
    assert outcome.scores is not None
    assert outcome.scores.value == scores["value"]
    assert not scores["partial"]
    # the answers file is scored alike by itself, by questions' own ids
    again = score_file(task, tmp_path / task / "answers.jsonl", home / "data", grades=grades)
    assert again.value == scores["value"]
    by_id = {question.id: question for question in questions}
    for sample in samples:
        if by_id[sample["id"]].image is None:
            assert sample["picture"] is None
        else:
            assert (tmp_path / task / sample["picture"]).is_file()
    assert outcome.submission is not None
    assert outcome.submission.exists()
    entry = manifest.read_manifest(tmp_path)["tasks"][task]  # pyright: ignore[reportOptionalSubscript]
    assert (entry["num_asked"], entry["num_missing"]) == (len(questions), 0)
    assert all(len(file["sha256"]) == 64 for file in entry["files"].values())
    assert entry["files"]


def test_answers_are_those_of_asking_one_by_one(home: Path, vlm: VLM, tmp_path: Path) -> None:
    """Whatever is answered together: 7 a batch, a picture's ten from one state, or each question by itself."""
    texts = []
    for batch_size in (1, 7, 64):
        chosen = settings(home, tmp_path / str(batch_size), data=home / "large")
        run(vlm, home, ["pope"], replace(chosen, batch_size=batch_size, max_new_tokens=40))
        answers = read_lines(chosen.out / "pope" / "answers.jsonl")
        texts.append([answer["text"] for answer in answers])
    questions, _ = benchmark("pope").read(home / "large")
    alone = [
        vlm.ask(home / "large" / "val2014" / str(q.image), q.prompt, Sampling(max_new_tokens=40))
        for q in questions
        if q.category == "popular"
    ]
    assert texts[0][-70:] == [text.strip() for text in alone]
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > 5


def test_a_picture_is_read_once_for_all_its_questions(
    home: Path, vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_read = []
    pixel_values = vlm.processor.pixel_values

    def counted(pictures: Sequence[Image.Image]) -> torch.Tensor:
        num_read.append(len(pictures))
        return pixel_values(pictures)

    monkeypatch.setattr(vlm.processor, "pixel_values", counted)
    for batch_size in (16, 100):
        num_read.clear()
        chosen = settings(
            home, tmp_path / str(batch_size), data=home / "large", batch_size=batch_size
        )
        run(vlm, home, ["pope"], chosen)
        assert sum(num_read) == 7


class KilledError(Exception):
    pass


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(
    home: Path, vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    tasks = [task for task in NAMES if task != "mmvet"]
    small = settings(home, tmp_path / "whole", batch_size=2)
    run(vlm, home, tasks, small)

    append, count = Journal.append, 0

    def append_until_killed(journal: Journal, records: list[dict[str, Any]]) -> None:
        nonlocal count
        count += 1
        append(journal, records)
        ids = [answer["question_id"] for answer in read_lines(journal.path)]
        assert len(set(ids)) == len(ids)
        if count % 3 == 0:
            if torn:  # in the middle of the last line
                content = journal.path.read_bytes()
                journal.path.write_bytes(content[:-9])
            raise KilledError

    monkeypatch.setattr(Journal, "append", append_until_killed)
    again = replace(small, out=tmp_path / "killed")
    num_killed = 0
    for _ in range(60):
        try:
            run(vlm, home, tasks, again)
        except KilledError:
            num_killed += 1
        else:
            break
    assert num_killed > 5
    assert written(again.out) == written(small.out)


def test_a_process_killed_outright_loses_no_answer(home: Path, tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        options = ("--batch-size", "1", "--max-new-tokens", "40", "--device", "cpu")
        places = (
            "--model",
            str(home / "model"),
            "--data",
            str(home / "large"),
            "-o",
            str(tmp_path / out),
        )
        return [sys.executable, "-m", "vlmamba", "eval", "pope", *places, *options]

    journal = tmp_path / "killed" / "pope" / "answers.jsonl"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command("killed"), **quiet)  # pyright: ignore[reportCallIssue, reportArgumentType]
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 3000):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes()
    num_kept = kept.count(b"\n")
    assert 0 < num_kept < 210
    for out in ("killed", "whole"):
        subprocess.run(command(out), check=True, **quiet)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert written(tmp_path / "killed") == written(tmp_path / "whole")
    ids = [answer["question_id"] for answer in read_lines(journal)]
    assert len(ids) == len(set(ids)) == 210
    assert set(kept.splitlines()[:num_kept]) <= set(journal.read_bytes().splitlines())


def test_two_processes_give_what_one_gives(home: Path, vlm: VLM, tmp_path: Path) -> None:
    chosen = settings(home, tmp_path / "one", batch_size=10, data=merged(home, tmp_path))
    run(vlm, home, ["pope", "gqa"], chosen)
    options = ("--batch-size", "10", "--max-new-tokens", "6", "--device", "cpu")
    places = (
        "--model",
        str(home / "model"),
        "--data",
        str(tmp_path / "merged"),
        "-o",
        str(tmp_path / "two"),
    )
    launcher = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    )
    done = subprocess.run(
        [*launcher, "-m", "vlmamba", "eval", "pope", "gqa", *places, *options, "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["tasks"]) == {"pope", "gqa"}  # one process prints
    assert written(tmp_path / "two") == written(tmp_path / "one")


def merged(home: Path, tmp_path: Path) -> Path:
    shutil.copytree(home / "large", tmp_path / "merged")
    shutil.copytree(home / "data" / "gqa", tmp_path / "merged" / "gqa")
    return tmp_path / "merged"


@pytest.mark.parametrize("task", NAMES)
def test_a_limited_run_is_marked_as_partial_everywhere(
    task: str, home: Path, vlm: VLM, tmp_path: Path
) -> None:
    grades = home / "data" / "mm-vet" / "grades.json" if task == "mmvet" else None
    limit = 20 if task == "mme" else 2
    chosen = settings(home, tmp_path, limit=limit, grading=Grading(grades))
    (outcome,) = run(vlm, home, [task], chosen)
    answers = read_lines(tmp_path / task / "answers.jsonl")
    assert 1 <= len(answers) <= limit
    num_questions = len(benchmark(task).read(home / "data")[0])
    partial = len(answers) < num_questions
    assert manifest.read_manifest(tmp_path)["partial"] is partial  # pyright: ignore[reportOptionalSubscript]
    assert all(answer["metadata"] == {"limit": limit} for answer in answers)
    assert outcome.submission is not None
    assert ".partial" in outcome.submission.name
    assert outcome.scores is not None
    scores = read(tmp_path / task / "scores.json")
    assert scores["partial"]
    assert "PARTIAL" in " ".join(scores["notes"])
    assert scores["num_missing"] == 0  # what was not asked does not count as wrong
    samples = read_lines(tmp_path / task / "samples.jsonl")
    assert all(sample["partial"] for sample in samples)


def test_a_limit_takes_whole_groups_and_always_the_same() -> None:
    def question(number: int) -> Question:
        return Question(str(number), "?", {"index": number}, bytes([number % 251]))

    rows = [question(g + k * 1_000_000) for k in range(4) for g in range(50)]
    taken = limited(rows, 22, "mmbench")
    assert len(taken) == 20
    assert len({q.gold["index"] % 1_000_000 for q in taken}) == 5
    assert taken == limited(rows, 22, "mmbench")
    assert len(limited(rows, 22, "pope")) == 22
    assert [q.gold["index"] for q in limited(rows, 3, "mmbench")] == sorted(
        q.gold["index"] for q in limited(rows, 3, "mmbench")
    )
    assert len(limited(rows, 3, "mmbench")) == 4  # a group at least


def test_batches_hold_whole_albums() -> None:
    albums = [Album(None, (Question("q", "?", None),) * n) for n in (3, 3, 3, 20, 1, 9)]
    sizes = [[len(a.questions) for a in batch] for batch in batches(albums, 8)]
    assert sizes == [[3, 3], [3], [20], [1], [9]]


def test_missing_pictures_are_counted_and_left_out_only_when_allowed(
    home: Path, vlm: VLM, tmp_path: Path
) -> None:
    shutil.copytree(home / "large", tmp_path / "data")
    (tmp_path / "data/val2014/COCO_val2014_000000000003.jpg").unlink()
    chosen = replace(settings(home, tmp_path / "out"), data=tmp_path / "data")
    with pytest.raises(
        ValueError, match=r"1 of 7 pictures are missing, COCO_val2014_000000000003.*val2014"
    ):
        make_plan("pope", chosen)
    (outcome,) = run(vlm, home, ["pope"], replace(chosen, allow_missing=True))
    assert outcome.scores is not None
    assert outcome.scores.num_missing == 30
    assert read(tmp_path / "out/pope/scores.json")["partial"]
    assert outcome.submission is not None
    assert outcome.submission.name == "submission.partial.jsonl"
    # they may lie elsewhere
    (tmp_path / "data/val2014").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="--pictures"):
        make_plan("pope", chosen)
    shutil.copy(home / "large/val2014/COCO_val2014_000000000003.jpg", tmp_path / "elsewhere")
    plan = make_plan("pope", replace(chosen, pictures=tmp_path / "elsewhere"))
    assert len(plan.asked) == 210


def test_a_broken_picture_stops_the_run_and_keeps_what_there_is(
    home: Path, vlm: VLM, tmp_path: Path
) -> None:
    shutil.copytree(home / "large", tmp_path / "data")
    broken = tmp_path / "data/val2014/COCO_val2014_000000000005.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    chosen = replace(settings(home, tmp_path / "out"), data=tmp_path / "data", batch_size=30)
    with pytest.raises(ValueError, match=r"COCO_val2014_000000000005.*kept"):
        run(vlm, home, ["pope"], chosen)
    num_kept = len(read_lines(tmp_path / "out/pope/answers.jsonl"))
    assert num_kept == 150
    left_out = replace(chosen, out=tmp_path / "other", allow_missing=True)
    (outcome,) = run(vlm, home, ["pope"], left_out)
    assert outcome.scores is not None
    assert outcome.scores.num_missing == 30


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 4}, "--batch-size"),
        ({"max_new_tokens": 7}, "--max-new-tokens"),
        ({"limit": 2}, "--limit"),
    ],
)
def test_another_run_is_not_gone_on_with(
    home: Path, vlm: VLM, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    chosen = settings(home, tmp_path)
    run(vlm, home, ["gqa"], chosen)
    before = written(tmp_path)
    with pytest.raises(ValueError, match=f"begun with other {words}.*name another output folder"):
        run(vlm, home, ["gqa"], replace(chosen, **changes))
    assert written(tmp_path) == before


def test_another_model_is_not_gone_on_with(home: Path, vlm: VLM, tmp_path: Path) -> None:
    chosen = settings(home, tmp_path)
    run(vlm, home, ["gqa"], chosen)
    plan = make_plan("pope", chosen)
    other = describe_model(vlm, str(home / "model")) | {"fingerprint": "0" * 64}
    with pytest.raises(ValueError, match="another model"):
        evaluate(vlm, other, [plan], chosen, quiet=True)


def test_scores_by_other_rules_need_no_new_answers(
    home: Path, vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(home, tmp_path)
    run(vlm, home, ["gqa"], chosen)
    monkeypatch.setattr(VLM, "ask_many", lambda *_: pytest.fail("asked again"))
    (outcome,) = run(vlm, home, ["gqa"], replace(chosen, protocol="lmms-eval"))
    assert outcome.scores is not None
    assert read(tmp_path / "gqa/scores.json")["protocol"] == "lmms-eval"


def test_a_judges_grades_are_kept_one_by_one(
    home: Path, vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge fails at the second answer; the first is not graded twice."""
    from vlmamba.eval import grading

    asked: list[str] = []

    def connect(*_: object) -> Callable[[str, float], str]:
        def judge(message: str, temperature: float) -> str:
            asked.append(message)
            if len(asked) == 2:
                raise ConnectionError("the judge is gone")
            return "0.5"

        return judge

    monkeypatch.setattr(grading, "connect", connect)
    monkeypatch.setattr(grading.mmvet, "read_judge_prompt", lambda path: "Grade this.\n")
    judged = Grading(url="http://judge/v1", prompt=write_json(tmp_path / "prompt", "x"))
    chosen = settings(home, tmp_path / "out", grading=judged)
    with pytest.raises(ConnectionError, match="gone"):
        run(vlm, home, ["mmvet"], chosen)
    (outcome,) = run(vlm, home, ["mmvet"], chosen)
    assert outcome.scores is not None
    assert outcome.scores.value == 50
    assert len(asked) == 3
    assert asked[0] != asked[1] == asked[2]


def test_the_manifest_tells_models_and_prompts_apart(home: Path, tmp_path: Path) -> None:
    first = manifest.model_fingerprint(home / "model")
    shutil.copytree(home / "model", tmp_path / "model")
    assert manifest.model_fingerprint(tmp_path / "model") == first
    weights = tmp_path / "model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert manifest.model_fingerprint(tmp_path / "model") != first
    question = Question("1", f"What?{SHORT}", None)
    assert manifest.prompts_sha256([question]) != manifest.prompts_sha256(
        [replace(question, prompt="What?")]
    )
    assert manifest.parser_sha256("gqa") != manifest.parser_sha256("mme")


def test_questions_without_public_answers_end_with_a_submission(
    home: Path, vlm: VLM, tmp_path: Path
) -> None:
    data = tmp_path / "vqav2"
    (data / "test2015").mkdir(parents=True)
    Image.new("RGB", (9, 9), "red").save(data / "test2015" / "a.jpg")
    lines = [{"question_id": n, "image": "a.jpg", "text": f"What {n}?{SHORT}"} for n in (1, 2, 3)]
    for name, some in (("test-dev2015", lines[:2]), ("test2015", lines)):
        text = "".join(json.dumps(line) + "\n" for line in some)
        (data / f"llava_vqav2_mscoco_{name}.jsonl").write_text(text)
    (outcome,) = run(vlm, home, ["vqav2"], settings(home, tmp_path / "out", data=data))
    assert outcome.scores is None
    assert "no public answers" in outcome.why
    assert outcome.submission is not None
    upload = read(outcome.submission)
    assert [row["question_id"] for row in upload] == [1, 2, 3]
    assert upload[0]["answer"] != ""
    assert upload[2]["answer"] == ""
    assert not (tmp_path / "out/vqav2/scores.json").exists()
    with pytest.raises(NotScorableError):
        conclude("vqav2", tmp_path / "out/vqav2/answers.jsonl", data, None)


def test_other_questions_or_pictures_are_not_gone_on_with(
    home: Path, vlm: VLM, tmp_path: Path
) -> None:
    shutil.copytree(home / "large", tmp_path / "data")
    chosen = settings(home, tmp_path / "out", data=tmp_path / "data")
    run(vlm, home, ["pope"], chosen)
    picture = tmp_path / "data/val2014/COCO_val2014_000000000000.jpg"
    content = picture.read_bytes()
    picture.write_bytes(content + b"more")
    with pytest.raises(ValueError, match="begun with other pictures"):
        run(vlm, home, ["pope"], chosen)
    picture.write_bytes(content)
    labels = tmp_path / "data/coco_pope_random.json"
    labels.write_text(labels.read_text().replace("Is there a b0", "Is there a z0", 1))
    with pytest.raises(ValueError, match="begun with other questions"):
        run(vlm, home, ["pope"], chosen)
