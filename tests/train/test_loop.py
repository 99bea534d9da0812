"""The loop: what a step computes, when it stops, and that stopping leaves no trace."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
import toy

from vlmamba.data.batches import Batch, in_order
from vlmamba.data.samples import Budget, TooManyBadError
from vlmamba.train.checkpoint import load_newest
from vlmamba.train.loop import NonFiniteError, language_loss, run_stage
from vlmamba.train.stages import freeze_for


class Watched(toy.RandomBatches):
    """Calls `before(index)` before it gives a batch, and `change(batch)` on what it gives."""

    def __init__(self, before=None, change=None) -> None:
        self.before, self.change = before, change

    def batch(self, index: int) -> Batch:
        if self.before:
            self.before(index)
        batch = super().batch(index)
        if self.change:
            self.change(index, batch)
        return batch


class Holed(Watched):
    """A sample of every batch cannot be read; of five batches' samples three may be."""

    def __init__(self, **watched) -> None:
        super().__init__(**watched)
        self.budget = Budget(0.5, 6)

    def batch(self, index: int) -> Batch:
        return replace(super().batch(index), skipped=(f"sample-{index}c",))


def run_log(directory):
    lines = (directory / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_s"} for line in lines]


def interrupt_at(index: int, number: int = signal.SIGTERM):
    return Watched(before=lambda k: os.kill(os.getpid(), number) if k == index else None)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_twice_and_resumed_equals_never_stopped(tmp_path, accumulation, workers):
    stage = replace(toy.STAGE, accumulation=accumulation, workers=workers)
    straight = toy.make_model()
    assert run_stage(straight, toy.RandomBatches(), stage, tmp_path / "straight").finished

    quiet = replace(stage, workers=0)
    for stop in (2, 6):  # in the second and in the sixth step
        model = toy.make_model()
        stopped = run_stage(
            model, interrupt_at(stop * accumulation), quiet, tmp_path / "parts", resume=True
        )
        assert not stopped.finished
        assert stopped.step == stop + 1
    model = toy.make_model()
    finished = run_stage(model, toy.RandomBatches(), stage, tmp_path / "parts", resume=True)
    assert finished.finished
    assert run_log(tmp_path / "parts") == run_log(tmp_path / "straight")
    assert toy.same(toy.weights(model), toy.weights(straight))


def test_killed_between_checkpoints_goes_back_to_the_last_and_repeats_the_same_steps(tmp_path):
    straight = toy.make_model()
    run_stage(straight, toy.RandomBatches(), toy.STAGE, tmp_path / "straight")

    def die(index):
        if index == 6:
            raise KeyboardInterrupt  # as abrupt as a kill: no checkpoint of step 6

    with pytest.raises(KeyboardInterrupt):
        run_stage(toy.make_model(), Watched(before=die), toy.STAGE, tmp_path / "killed")
    assert [line["step"] for line in run_log(tmp_path / "killed")][-1] == 6
    model = toy.make_model()
    run_stage(model, toy.RandomBatches(), toy.STAGE, tmp_path / "killed", resume=True)
    assert run_log(tmp_path / "killed") == run_log(tmp_path / "straight")
    assert toy.same(toy.weights(model), toy.weights(straight))


def test_sigterm_saves_after_the_step_in_hand_and_puts_the_handlers_back(tmp_path, caplog):
    before = signal.getsignal(signal.SIGTERM)
    result = run_stage(toy.make_model(), interrupt_at(1), toy.STAGE, tmp_path)
    assert (result.step, result.finished) == (2, False)
    assert (tmp_path / "checkpoints" / "step-00000002" / "manifest.json").exists()
    assert "SIGTERM: stopping after this step" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_finished_stage_resumes_to_its_end_without_training(tmp_path):
    trained = toy.make_model()
    run_stage(trained, toy.RandomBatches(), toy.STAGE, tmp_path)
    again = toy.make_model()
    result = run_stage(again, toy.RandomBatches(), toy.STAGE, tmp_path, resume=True)
    assert result.finished
    assert result.losses == {}
    assert toy.same(toy.weights(again), toy.weights(trained))


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_step_that_is_not_finite_stops_before_its_update(tmp_path, poison):
    model = toy.make_model()
    seen = {}

    def objective(model, batch):
        seen["weights"] = toy.weights(model)
        total, count = language_loss(model, batch)
        if "sample-5a" not in batch.sample_ids:
            return total, count
        if poison == "loss":
            return total * float("nan"), count
        weight = model.model.connector.linear_1.weight
        return total + torch.sqrt((weight * 0).sum()), count  # its gradient is 0 * inf

    with pytest.raises(
        NonFiniteError, match=r"step 6 of stage finetune.*stopped before the update"
    ):
        run_stage(model, toy.RandomBatches(), toy.STAGE, tmp_path, objective=objective)
    assert toy.same(toy.weights(model), seen["weights"])
    report = json.loads((tmp_path / "non-finite-step-00000006.json").read_text())
    assert report["batches"][0]["samples"] == ["sample-5a", "sample-5b"]
    assert report["step"] == 6


def test_a_stage_may_leave_out_updates_that_are_not_finite(tmp_path, caplog):
    model, before = toy.make_model(), []

    def objective(model, batch):
        before.append(toy.weights(model))
        total, count = language_loss(model, batch)
        return (total * float("nan") if len(before) in (3, 6) else total), count

    stage = replace(toy.STAGE, max_skipped=2)
    result = run_stage(model, toy.RandomBatches(), stage, tmp_path, objective=objective)
    assert result.finished
    assert toy.same(before[2], before[3])
    assert toy.same(before[5], before[6])
    assert not toy.same(before[3], before[4])
    assert "step 3 of stage finetune left out" in caplog.text
    assert all(torch.isfinite(p).all() for p in model.parameters())
    before.clear()
    with pytest.raises(NonFiniteError, match="step 6"):
        run_stage(
            toy.make_model(),
            toy.RandomBatches(),
            replace(stage, max_skipped=1),
            objective=objective,
        )


def test_reading_figures_late_changes_no_weight():
    models = [toy.make_model(), toy.make_model()]
    results = [
        run_stage(
            model, toy.RandomBatches(), replace(toy.STAGE, max_skipped=skipped, log_interval=4)
        )
        for model, skipped in zip(models, (0, 3), strict=True)
    ]
    assert results[0].losses == results[1].losses
    assert toy.same(*map(toy.weights, models))


def test_a_stage_ends_with_the_average_of_its_weights(tmp_path):
    stage = replace(toy.STAGE, average=0.9, checkpoint_interval=4)
    plain, averaged = toy.make_model(), toy.make_model()
    steps = []

    def objective(model, batch):
        steps.append(toy.weights(model))
        return language_loss(model, batch)

    run_stage(plain, toy.RandomBatches(), toy.STAGE, objective=objective)
    run_stage(averaged, toy.RandomBatches(), stage, tmp_path)
    name = "model.connector.linear_1.weight"
    expected = steps[0][name]
    for step, after in enumerate([*steps[1:], toy.weights(plain)], 1):
        decay = min(0.9, step / (step + 9))
        expected = decay * expected + (1 - decay) * after[name]
    torch.testing.assert_close(toy.weights(averaged)[name], expected)

    resumed = toy.make_model()
    for newest in sorted((tmp_path / "checkpoints").glob("step-*"))[-1:]:
        shutil.rmtree(newest)
    assert run_stage(resumed, toy.RandomBatches(), stage, tmp_path, resume=True).finished
    assert toy.same(toy.weights(resumed), toy.weights(averaged))


def test_a_batch_with_nothing_to_learn_stops_the_run():
    def unlearn(index, batch):
        batch.labels.fill_(-100)

    with pytest.raises(NonFiniteError, match="no supervised token"):
        run_stage(toy.make_model(), Watched(change=unlearn), toy.STAGE)


def test_every_supervised_token_weighs_the_same_however_batches_are_cut():
    whole = [toy.RandomBatches().batch(index) for index in range(4)]
    assert len({int((batch.labels != -100).sum()) for batch in whole}) == 4

    class OneBatch:
        def __len__(self):
            return 1

        def batch(self, index):
            return Batch(
                torch.cat([b.input_ids for b in whole]), torch.cat([b.labels for b in whole]),
                torch.cat([b.pixel_values for b in whole]),
            )  # fmt: skip

    stage = replace(toy.STAGE, steps=1, clip=1e9)
    together, accumulated = toy.make_model(), toy.make_model()
    one = run_stage(together, OneBatch(), stage)
    many = run_stage(accumulated, toy.RandomBatches(), replace(stage, accumulation=4))
    assert one.losses[1] == pytest.approx(many.losses[1], rel=1e-6)
    gradients = zip(together.parameters(), accumulated.parameters(), strict=True)
    for a, b in gradients:
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_the_gradient_is_clipped_to_its_norm(tmp_path):
    model = toy.make_model()
    run_stage(model, toy.RandomBatches(), replace(toy.STAGE, steps=1, clip=0.01), tmp_path)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert run_log(tmp_path)[0]["grad_norm"] > 0.01
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(0.01, rel=1e-3)


def test_the_frozen_tower_records_nothing_and_its_features_serve_as_well():
    model = toy.make_model()
    freeze_for(model, "align")
    batch = toy.RandomBatches().batch(0)
    total, count = language_loss(model, batch)
    features = model.model.vision_tower(batch.pixel_values)
    assert not features.requires_grad
    with_features = Batch(batch.input_ids, batch.labels, features=features)
    again, _ = language_loss(model, with_features)
    assert torch.equal(total, again)
    assert int(count) == 16


def test_bf16_computes_in_bf16_and_keeps_float32_weights():
    model = toy.make_model()
    seen = []
    model.model.language_model.layers[0].mixer.in_proj.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    result = run_stage(model, toy.RandomBatches(), replace(toy.STAGE, steps=2, precision="bf16"))
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(0 < loss < 10 for loss in result.losses.values())


@pytest.mark.parametrize("recompute", ["scan", "mixer"])
def test_what_is_computed_anew_changes_no_loss(recompute):
    stage = replace(toy.STAGE, steps=3, log_interval=1)
    plain, saving = toy.make_model(), toy.make_model()
    calls = []
    saving.model.language_model.layers[0].mixer.x_proj.register_forward_hook(
        lambda *_: calls.append(1)
    )
    expected = run_stage(plain, toy.RandomBatches(), stage).losses
    assert (
        run_stage(saving, toy.RandomBatches(), replace(stage, recompute=recompute)).losses
        == expected
    )
    assert len(calls) == 6


def test_the_log_says_what_happened(tmp_path):
    stage = replace(toy.STAGE, steps=5, log_interval=2, checkpoint_interval=100)
    run_stage(toy.make_model(), toy.RandomBatches(), stage, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert [line["tokens"] for line in lines] == [60, 60, 30]
    assert [line["supervised"] for line in lines] == [30, 22, 16]
    assert all(line["tokens_per_s"] > 0 and line["lr"] > 0 for line in lines)


def test_too_many_unreadable_samples_end_the_run_with_what_was_done(tmp_path):
    with pytest.raises(TooManyBadError, match="4 samples could not be read, max_bad allows 3"):
        run_stage(toy.make_model(), Holed(), toy.STAGE, tmp_path)
    found = load_newest(tmp_path / "checkpoints")
    assert found is not None
    assert (found.step, found.unreadable) == (3, 3)


def test_a_resumed_run_has_not_forgotten_what_could_not_be_read(tmp_path):
    stop = Holed(before=lambda k: os.kill(os.getpid(), signal.SIGTERM) if k == 1 else None)
    assert run_stage(toy.make_model(), stop, toy.STAGE, tmp_path).step == 2
    with pytest.raises(TooManyBadError, match="4 samples could not be read, max_bad allows 3"):
        run_stage(toy.make_model(), Holed(), toy.STAGE, tmp_path, resume=True)


def test_threads_prepare_batches_in_order_and_pass_errors_on():
    direct = list(in_order(toy.RandomBatches(), range(7)))
    threaded = list(in_order(toy.RandomBatches(), range(7), workers=3))
    assert [b.sample_ids for b in threaded] == [b.sample_ids for b in direct]
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(direct, threaded, strict=True))

    def fail(index):
        if index == 4:
            raise ValueError("picture 4")

    supply = in_order(Watched(before=fail), range(7), workers=2)
    with pytest.raises(ValueError, match="picture 4"):
        list(supply)
