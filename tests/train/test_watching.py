"""What can be seen of a run while it goes and afterwards: figures, answers to held-out samples, a plot, a summary."""

import json
import sys
import types
from dataclasses import replace

import pytest
import toy

from vlmamba import recipes
from vlmamba.train import run
from vlmamba.train.loop import run_stage
from vlmamba.vlm import load

STAGE = replace(toy.STAGE, steps=4, log_interval=2)


def test_tensorboard_gets_the_figures_of_the_log(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    stage = replace(STAGE, trackers=("tensorboard",))
    result = run_stage(toy.make_model(), toy.RandomBatches(), stage, tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "lr", "grad_norm", "tokens_per_s"} <= set(events.Tags()["scalars"])
    seen = {event.step: event.value for event in events.Scalars("loss")}
    assert seen == pytest.approx(result.losses, rel=1e-6)


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_board_is_told_the_run_its_settings_and_its_figures(tmp_path, monkeypatch, name):
    calls = []
    board = types.SimpleNamespace(
        init=lambda **settings: calls.append(settings),
        log=lambda figures, step: calls.append((step, figures["loss"])),
        finish=lambda: calls.append("finished"),
    )
    monkeypatch.setitem(sys.modules, name, board)
    directory = tmp_path / "my-run" / "training" / "finetune"
    stage = replace(STAGE, trackers=(name,))
    result = run_stage(toy.make_model(), toy.RandomBatches(), stage, directory)
    assert (calls[0]["project"], calls[0]["name"]) == ("vlmamba", "my-run/finetune")
    assert calls[0]["config"]["stage"]["lr"] == STAGE.lr
    assert calls[1:] == [(2, result.losses[2]), (4, result.losses[4]), "finished"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("tensorbord", "there is no tracker 'tensorbord'"), ("wandb", "wandb is not installed")],
)
def test_a_tracker_that_is_not_there_is_said_before_anything_is_trained(
    tmp_path, monkeypatch, name, message
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    stage = replace(STAGE, trackers=(name,))
    with pytest.raises(ValueError, match=message):
        run_stage(toy.make_model(), toy.RandomBatches(), stage, tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


def test_a_summary_and_a_plot_are_left(tmp_path):
    pytest.importorskip("matplotlib")
    result = run_stage(toy.make_model(), toy.RandomBatches(), STAGE, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["finished"], summary["tokens"]) == (4, True, 120)
    assert [summary["first_loss"], summary["last_loss"]] == [result.losses[2], result.losses[4]]
    assert summary["seconds_a_step"] > 0
    assert (tmp_path / "loss.png").read_bytes()[1:4] == b"PNG"


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Three drawn pictures that `tiny` never trains on, as a file in LLaVA's format."""
    directory = tmp_path_factory.mktemp("held-out")
    drawing = recipes.tiny().stages[-1].data.drawing
    samples = []
    for k in range(3):
        drawing.picture(10_000 + k).save(directory / f"{k}.png")
        (question, answer), *_ = drawing.dialogue(10_000 + k)
        turns = [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": answer},
        ]
        samples.append({"id": f"held-{k}", "image": f"{k}.png", "conversations": turns})
    (directory / "held-out.json").write_text(json.dumps(samples))
    return directory, samples


def test_held_out_samples_are_answered_as_the_finished_model_answers_them(tmp_path, held_out):
    directory, samples = held_out
    settings = ["steps=3", "batch_size=1", "log_interval=1", *(
        f"{stage}.data.count=4" for stage in ("pretrain", "align", "finetune")
    )]  # fmt: skip
    asked = [
        f"finetune.sample_file={directory / 'held-out.json'}", f"sample_images={directory}",
        "sample_interval=2", "sample_count=3", "finetune.steps=30",
    ]  # fmt: skip
    run("tiny", settings=[*settings, *asked], output=tmp_path / "asked")
    lines = (tmp_path / "asked" / "training" / "finetune" / "samples.jsonl").read_text()
    seen = [json.loads(line) for line in lines.splitlines()]
    assert [one["step"] for one in seen] == list(range(2, 31, 2))
    assert seen[-1]["loss"] < seen[0]["loss"]

    vlm = load(tmp_path / "asked")
    for answer, sample in zip(seen[-1]["answers"], samples, strict=True):
        question = sample["conversations"][0]["value"].removeprefix("<image>\n")
        assert answer["sample"] == sample["id"]
        assert answer["wanted"] == sample["conversations"][1]["value"]
        assert answer["said"] == vlm.ask(directory / sample["image"], question)
