"""Several processes train what one trains, stop together, and leave checkpoints that any number goes on from."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy
from processes import launch
from torch.profiler import profile

from vlmamba.data.samples import Budget, Sample, TooManyBadError
from vlmamba.train import checkpoint
from vlmamba.train.held_out import HeldOut
from vlmamba.train.loop import NonFiniteError, StageResult, language_loss, run_stage
from vlmamba.train.parallel import shared_out
from vlmamba.train.ranks import OtherRankError, Ranks
from vlmamba.train.stages import freeze_for

STAGE = replace(toy.STAGE, accumulation=4, steps=4, checkpoint_interval=2)
FORMS = {
    "ddp": replace(STAGE, parallel="ddp"),
    "fsdp": replace(STAGE, parallel="fsdp", recompute="scan"),
    "fsdp-grad-op": replace(STAGE, parallel="fsdp-grad-op", shard_tower=True, recompute="mixer"),
}
SHARDED = FORMS["fsdp"]


class WithTexts(toy.RandomBatches):
    """Every third batch is text alone, so that in a step one process may see no picture at all.

    `before(index)` is called before a batch is given.
    """

    def __init__(self, before: Callable[[int], object] = lambda index: None) -> None:
        self.before = before

    def batch(self, index):
        self.before(index)
        batch = super().batch(index)
        if index % 3 == 0:
            batch.pixel_values = None
            batch.input_ids[batch.input_ids == toy.IMAGE] = 5
        return batch


class Holed(WithTexts):
    """Two samples of each batch of the second step could not be read; three of each of two epochs may be missing."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(0.3, 10)

    def batch(self, index):
        return replace(
            super().batch(index), skipped=("c", "d") if index >= STAGE.accumulation else ()
        )


def trained(ranks, directory=None, stage=STAGE, batches=None, **options):
    """A toy model after a stage: its result and the model's weights."""
    model = toy.make_model()
    result = run_stage(model, batches or WithTexts(), stage, directory, ranks=ranks, **options)
    return result, toy.weights(model)


def stop_in_step_2(index: int) -> None:
    if index == 2 * STAGE.accumulation - 1:  # the last process's
        os.kill(os.getpid(), signal.SIGTERM)


def nothing_finite_in_batch_7(model, batch):
    total, count = language_loss(model, batch)
    return total * (float("nan") if "sample-7a" in batch.sample_ids else 1.0), count


def fail_at_batch_5(index: int) -> None:
    if index == 5:
        raise ValueError("picture 5 is broken")


class Lines:
    """Three samples of text, in whose place of a processor is what a held-out sample needs of one."""

    lengths = (6, 7, 8)
    processor = SimpleNamespace(
        pad_token_id=1, image_token_id=toy.IMAGE, eos_token_id=0,
        decode=lambda ids: " ".join(map(str, ids)),
    )  # fmt: skip

    def sample(self, k):
        ids = list(range(3 + k, 9 + 2 * k))
        return Sample(f"line-{k}", ids, [-100] * 3 + ids[3:])


def watched(ranks, directory, stage):
    """As `trained`, asking held-out samples after every step; with what they were answered."""
    stage = replace(stage, sample_interval=1)
    result = trained(ranks, directory, stage, held_out=HeldOut(Lines(), 3, max_new_tokens=4))
    lines = map(json.loads, (directory / "samples.jsonl").read_text().splitlines())
    said = [[answer["said"] for answer in line["answers"]] for line in lines]
    return *result, said


def error_of(function: Callable[[], object]) -> str:
    try:
        function()
    except (ValueError, OtherRankError, NonFiniteError, TooManyBadError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def in_each(directory: Path) -> dict:
    """All that processes which work together do and see; one start serves for all of it."""
    with Ranks.start() as ranks:
        seen: dict = {name: trained(ranks, stage=stage) for name, stage in FORMS.items()}
        seen["stopped"] = trained(
            ranks, directory / "stopped", SHARDED, WithTexts(before=stop_in_step_2)
        )
        seen["resumed"] = trained(ranks, directory / "one stopped", SHARDED, resume=True)
        seen["not finite"] = error_of(
            lambda: trained(
                ranks, directory / "spoilt", replace(STAGE, checkpoint_interval=1),
                objective=nothing_finite_in_batch_7,
            )
        )  # fmt: skip
        seen["unreadable"] = error_of(lambda: trained(ranks, batches=WithTexts(fail_at_batch_5)))
        seen["skipped"] = error_of(lambda: trained(ranks, directory / "skipped", batches=Holed()))
        seen["unequal"] = error_of(lambda: trained(ranks, stage=replace(STAGE, accumulation=3)))
        if ranks.world == 2:
            seen |= in_two(ranks, directory)
    return seen


def pieces(ranks: Ranks) -> tuple[int, int]:
    """Gradients after a batch that is only added up, and the pieces of memory in which they lie."""
    model = toy.make_model()
    freeze_for(model, "finetune")
    shared = shared_out(model, ranks, STAGE)
    shared.forget()
    with shared.accumulating(last=False):
        shared.call(language_loss, toy.RandomBatches().batch(0))[0].backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return len(gradients), len({g.untyped_storage().data_ptr() for g in gradients})


def gathers(ranks: Ranks, form: str) -> list[int]:
    """How often shards were gathered in each of three batches, the second of which begins no step and ends none."""
    model, counts = toy.make_model(), []
    freeze_for(model, "finetune")
    shared = shared_out(model, ranks, FORMS[form])
    shared.forget()
    for last in (False, False, True):
        with profile() as seen, shared.accumulating(last):
            shared.call(language_loss, toy.RandomBatches().batch(0))[0].backward()
        counts.append(sum(event.name == "c10d::_allgather_base_" for event in seen.events()))
    return counts


def in_two(ranks: Ranks, directory: Path) -> dict:
    """What more processes would only repeat."""
    seen: dict = {"pieces": pieces(ranks)}
    seen["gathers"] = {form: gathers(ranks, form) for form in ("fsdp", "fsdp-grad-op")}
    seen["align"] = trained(ranks, stage=replace(SHARDED, name="align"))
    seen["bf16"] = [
        trained(ranks, stage=replace(FORMS[form], precision="bf16")) for form in ("ddp", "fsdp")
    ]
    for form in ("ddp", "fsdp", "fsdp-grad-op"):
        seen[f"watched {form}"] = watched(ranks, directory / form, FORMS[form])
    half = replace(FORMS["fsdp-grad-op"], precision="bf16")
    seen["half"] = [
        trained(ranks, stage=half, held_out=held_out)
        for held_out in (None, HeldOut(Lines(), 3, max_new_tokens=4))
    ]
    return seen


@pytest.fixture(scope="module", params=[2, 4])
def several(request, tmp_path_factory):
    """How many processes there were, what each saw, and where they wrote; one process had been stopped before."""
    directory = tmp_path_factory.mktemp("several")
    alone = Ranks(torch.device("cpu"))
    trained(alone, directory / "one stopped", batches=WithTexts(before=stop_in_step_2))
    seen = launch(request.param, in_each, directory)
    assert all(isinstance(result, dict) for result in seen), seen
    return request.param, seen, directory


two = pytest.mark.parametrize("several", [2], indirect=True)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """What a process alone gets, by precision and stage."""
    alone = Ranks(torch.device("cpu"))
    return {
        "finetune": trained(alone),
        "align": trained(alone, stage=replace(STAGE, name="align")),
        "bf16": trained(alone, stage=replace(STAGE, precision="bf16")),
        "watched": watched(alone, tmp_path_factory.mktemp("one"), STAGE),
    }


def assert_same(ours, theirs, tolerance=2e-6):
    (result, weights), (expected, expected_weights) = ours, theirs
    assert result.losses == pytest.approx(expected.losses, rel=tolerance)
    for name, value in weights.items():
        torch.testing.assert_close(
            value, expected_weights[name], rtol=0, atol=5 * tolerance, msg=name
        )


@pytest.mark.parametrize("form", FORMS)
def test_losses_and_weights_are_those_of_one_process(several, one, form):
    for seen in several[1]:
        assert_same(seen[form], one["finetune"])


@two
def test_copies_hold_their_gradients_once_where_they_travel(several):
    _, seen, _ = several
    for one in seen:
        gradients, held_in = one["pieces"]
        assert held_in <= 2 < gradients  # DDP's first bucket is small


@two
def test_what_stays_gathered_until_the_backward_pass_is_gathered_once_a_step(several):
    for one in several[1]:
        first, second, third = one["gathers"]["fsdp-grad-op"]
        assert second == third == 0 < first
        assert len(set(one["gathers"]["fsdp"])) == 1  # all is let go of, in each batch


@two
def test_gradients_pass_through_a_sharded_frozen_language_model(several, one):
    for seen in several[1]:
        assert_same(seen["align"], one["align"])


@two
@pytest.mark.parametrize("form", FORMS)
def test_held_out_samples_are_answered_alike_and_leave_no_trace(several, one, form):
    for seen in several[1]:
        *trained, said = seen[f"watched {form}"]
        assert_same(trained, one["finetune"])
        assert said == one["watched"][2]
    assert len({str(answers) for answers in one["watched"][2]}) > 1  # they change as it learns


@two
def test_what_is_left_after_an_answer_are_the_masters_and_not_what_was_gathered(several):
    for seen in several[1]:
        (_, silent), (_, asked) = seen["half"]
        assert toy.same(silent, asked)


@two
def test_weights_that_travel_as_bf16_compute_what_autocast_computes(several, one):
    """One process, copies and shards round alike; sums of gradients differ in their order."""
    for seen in several[1]:
        for ours in seen["bf16"]:
            assert ours[0].losses == pytest.approx(one["bf16"][0].losses, rel=2e-3)
            assert {value.dtype for value in ours[1].values()} == {torch.float32}


def test_a_signal_to_one_process_stops_all_after_the_same_step_with_a_checkpoint(several):
    _, seen, directory = several
    assert [one["stopped"][0].step for one in seen] == [2] * len(seen)
    found = checkpoint.load_newest(directory / "stopped" / "checkpoints")
    assert found is not None
    assert found.step == 2
    assert len(found.files) == 3 * len(seen)


def test_one_process_goes_on_where_several_stopped(several, one):
    """From shards to a whole model; the other way round is `resumed`."""
    _, _, directory = several
    model = toy.make_model()
    result = run_stage(
        model, WithTexts(), STAGE, directory / "stopped", resume=True,
        ranks=Ranks(torch.device("cpu")),
    )  # fmt: skip
    expected, weights = one["finetune"]
    late = StageResult(4, True, {step: expected.losses[step] for step in (3, 4)}, 0.0)
    assert_same((result, toy.weights(model)), (late, weights))


def test_several_go_on_where_one_stopped(several, one):
    expected, weights = one["finetune"]
    late = StageResult(4, True, {step: expected.losses[step] for step in (3, 4)}, 0.0)
    for seen in several[1]:
        assert_same(seen["resumed"], (late, weights))


def test_a_loss_that_is_not_finite_in_one_stops_all_before_the_update(several):
    _, seen, directory = several
    assert {one["not finite"] for one in seen} == {seen[0]["not finite"]}
    assert "step 2 of stage finetune" in seen[0]["not finite"]
    report = json.loads((directory / "spoilt" / "non-finite-step-00000002.json").read_text())
    bad = [batch["samples"] for batch in report["batches"] if batch["loss"] == "nan"]
    assert bad == [["sample-7a", "sample-7b"]]
    assert len(report["batches"]) == STAGE.accumulation
    found = checkpoint.load_newest(directory / "spoilt" / "checkpoints")
    assert found is not None
    assert found.step == 1


def test_an_error_in_one_ends_all_and_only_that_one_has_something_to_say(several):
    world, seen, _ = several
    errors = [one["unreadable"] for one in seen]
    assert errors[5 % world] == "ValueError: picture 5 is broken"
    assert [error.split(":")[0] for error in errors].count("OtherRankError") == world - 1


def test_samples_that_all_processes_skipped_together_end_the_run(several):
    """Each met no more than four of the eight; what was done before is kept."""
    _, seen, directory = several
    for one in seen:
        assert one["skipped"].startswith(
            "TooManyBadError: 8 samples could not be read, max_bad allows 6"
        )
    found = checkpoint.load_newest(directory / "skipped" / "checkpoints")
    assert found is not None
    assert found.step == 1


def test_batches_that_cannot_be_shared_equally_are_refused_with_a_number_that_can(several):
    world, seen, _ = several
    for one in seen:
        assert f"3 batches a step (accumulation) cannot be shared by {world}" in one["unequal"]
        assert "--set finetune.accumulation=4" in one["unequal"]


def test_only_the_first_writes_the_log(several):
    _, _, directory = several
    lines = (directory / "one stopped" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def all_fail() -> str:
    """What becomes of an error that arises in every process."""
    try:
        with Ranks.start():
            raise ValueError("no such recipe")
    except ValueError:
        return "said"
    except SystemExit as ended:
        return f"silent {ended.code}"


def test_an_error_that_all_make_is_said_once():
    assert sorted(launch(3, all_fail)) == ["said", "silent 1", "silent 1"]
