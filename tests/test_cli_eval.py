"""`vlmamba eval` and `vlmamba score` as a user meets them: output, files, exit codes, bad input."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_vlm import random_vlm

from vlmamba.checkpoints import save_model
from vlmamba.cli import main
from vlmamba.commands.scoring import PUBLISHED_JUDGE
from vlmamba.eval.prompts import SHORT
from vlmamba.eval.tasks import mmvet

Run = Callable[..., tuple[int, str, str]]


def write_pope(folder: Path, num_pictures: int = 3) -> None:
    """Two questions on each picture, in POPE's label files."""
    (folder / "val2014").mkdir(parents=True)
    lines = []
    for number in range(num_pictures):
        name = f"COCO_val2014_{number:012d}.jpg"
        Image.new("RGB", (9, 9), (70 * number, 40, 200)).save(folder / "val2014" / name)
        for thing, label in (("cat", "yes"), ("dog", "no")):
            text = f"Is there a {thing} in the image?"
            line = {"question_id": len(lines) + 1, "image": name, "text": text, "label": label}
            lines.append(line)
    for category in ("random", "popular", "adversarial"):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"coco_pope_{category}.json").write_text(text)


def write_answers(path: Path, text: str = "yes", num_answers: int = 18) -> None:
    firsts = (1, 10_000_001, 20_000_001)
    ids = [first + n for first in firsts for n in range(6)]
    things = ("cat", "dog")
    records = [
        {
            "question_id": number,
            "prompt": f"Is there a {things[k % 2]} in the image?{SHORT}",
            "text": text,
        }
        for k, number in enumerate(ids[:num_answers])
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    vlm = random_vlm(dtype=torch.float32)
    save_model(home / "model", vlm.model, vlm.processor)
    write_pope(home / "pope")
    write_answers(home / "a.jsonl")
    return home


@pytest.fixture
def run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs a command among copies of the data; gives exit code, standard output and standard error."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return call


EVAL = ("eval", "pope", "--model", "model", "--data", "pope", "--device", "cpu")
EVAL += ("--max-new-tokens", "4", "-o", "out")
SCORE = ("score", "pope", "--answers", "a.jsonl", "--data", "pope")


def test_eval_prints_a_line_and_keeps_everything(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*EVAL)
    assert code == 0
    assert "mean F1 of the categories" in out
    assert "18 of 18 answered" in err
    written = {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}
    names = ("answers.jsonl", "scores.json", "samples.jsonl", "submission.jsonl")
    assert written == {"manifest.json", *(f"pope/{name}" for name in names)}
    code, again, err = run(*EVAL)
    assert (code, again) == (0, out)
    assert "18 of 18 were answered before" in err


def test_eval_as_json(run: Run) -> None:
    code, out, err = run(*EVAL, "--json", "--limit", "4")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["partial"]
    pope = report["tasks"]["pope"]
    assert pope["partial"]
    assert pope["num_questions"] == 4
    assert pope["submission"].endswith("submission.partial.jsonl")
    assert pope["value"] == json.loads(Path("out/pope/scores.json").read_text())["value"]


def test_score_agrees_with_the_definition(run: Run) -> None:
    code, out, err = run(*SCORE, "--json")
    pope = json.loads(out)["tasks"]["pope"]
    assert (code, err) == (0, "")
    assert pope["value"] == pytest.approx(200 / 3)  # always yes: precision 1/2, recall 1
    assert not Path("out").exists()


def test_score_without_torch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring takes no model, and does not wait for one."""
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("vlmamba.eval")]:
        monkeypatch.delitem(sys.modules, name)
    assert run(*SCORE, "-o", "out")[0] == 0


def test_score_keeps_evidence(run: Run) -> None:
    code, out, _ = run(*SCORE, "-o", "out")
    assert code == 0
    samples = [json.loads(line) for line in Path("out/pope/samples.jsonl").read_text().splitlines()]
    assert len(samples) == 18
    assert all(Path(sample["picture"]).is_file() for sample in samples)
    manifest = json.loads(Path("out/manifest.json").read_text())
    (digest,) = manifest["tasks"]["pope"]["answers"].values()
    assert len(digest["sha256"]) == 64
    assert "to submit: out/pope/submission.jsonl" in out


def test_score_of_an_evaluation_by_other_rules_stays_with_it(run: Run) -> None:
    run(*EVAL)
    arguments = ("--answers", "out/pope/answers.jsonl", "--data", "pope", "-o", "out")
    code, out, _ = run("score", "pope", *arguments, "--protocol", "lmms-eval")
    assert code == 0
    assert "rules of lmms-eval" in out
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["model"]["name"] == "model"
    assert manifest["tasks"]["pope"]["protocol"] == "lmms-eval"
    assert manifest["tasks"]["pope"]["num_asked"] == 18
    code, _, err = run(*SCORE, "-o", "out")
    assert (code, "out is the output of model" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("eval", "pop", *EVAL[2:]), "no benchmark 'pop'; there are vqav2"),
        ((*EVAL, "--protocol", "llava"), "no protocol 'llava'; there are official"),
        ((*EVAL, "--limit", "0"), "--limit must be at least 1"),
        ((*EVAL, "--batch-size", "0"), "--batch-size must be at least 1"),
        ((*EVAL, "--max-new-tokens", "0"), "--max-new-tokens must be at least 1"),
        ((*EVAL, "--data", "nowhere"), "nowhere: no such folder"),
        ((*EVAL, "--data", "model"), "no coco_pope_adversarial.json"),
        ((*EVAL, "--pictures", "nowhere"), "nowhere: no such folder"),
        ((*EVAL, "--judge", "http://x/v1"), "--judge needs --judge-prompt"),
        ((*EVAL, "--grades", "nothing.json"), "nothing.json does not exist"),
        ((*EVAL, "--model", "nothing"), "nothing: no such model directory"),
        (("eval", "pope", "--data", "pope"), "--output"),
        ((*SCORE, "--answers", "nothing.jsonl"), "nothing.jsonl does not exist"),
        ((*SCORE, "--protocol", "x"), "no protocol 'x'"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    run: Run, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(*arguments)
    assert code == (1 if "model directory" in said else 2)
    assert out == ""
    assert err.startswith("vlmamba: ")
    assert err.count("\n") == 1
    assert said in err
    assert not Path("out").exists()


def test_wrong_answer_files_are_told_with_file_and_line(run: Run) -> None:
    write_answers(Path("a.jsonl"), num_answers=17)
    code, _, err = run(*SCORE)
    assert (code, "1 of 18 questions have no answer" in err) == (2, True)
    code, out, _ = run(*SCORE, "--allow-missing", "--json")
    assert (code, json.loads(out)["partial"]) == (0, True)
    with Path("a.jsonl").open("a") as file:
        file.write("not json\n")
    code, _, err = run(*SCORE)
    assert (code, "a.jsonl:18: malformed JSON" in err) == (2, True)


def test_missing_pictures_stop_an_evaluation_before_it_starts(run: Run) -> None:
    Path("pope/val2014/COCO_val2014_000000000001.jpg").unlink()
    code, out, err = run(*EVAL)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "1 of 3 pictures are missing, COCO_val2014_000000000001.jpg first" in err
    assert not Path("out").exists()
    code, out, _ = run(*EVAL, "--allow-missing")
    assert code == 0
    assert "PARTIAL: 6 of 18 questions have no answer" in out


def test_the_judge_is_the_published_one() -> None:
    assert PUBLISHED_JUDGE == mmvet.JUDGE_MODEL
