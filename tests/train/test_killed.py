"""Killed and resumed, a run computes what it would have computed; whenever the kill comes, nothing is half there."""

import json
import os
import random
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy
from processes import launch

from vlmamba import recipes
from vlmamba.train import checkpoint
from vlmamba.train.loop import run_stage
from vlmamba.train.ranks import Ranks

KILLED = -signal.SIGKILL


class Watched:
    """Batches that call `before(index)` before they give one."""

    def __init__(self, batches, before) -> None:
        self.batches, self.before = batches, before

    def __len__(self):
        return len(self.batches)

    def batch(self, index):
        self.before(index)
        return self.batches.batch(index)


def thirty_steps(directory: Path, workers: int, killed_after: int | None) -> int:
    """The finetune stage of `tiny`, resumed if it was begun; killed as soon as that step's checkpoint stands."""
    recipe = recipes.tiny()
    entry = recipe.stages[-1]
    data = replace(entry.data, count=12)
    stage = replace(
        entry.config, steps=30, batch_size=1, accumulation=2, workers=workers, log_interval=1, checkpoint_interval=10,
    )  # fmt: skip

    def die(index):
        if killed_after is not None:
            if (directory / "checkpoints" / f"step-{killed_after:08d}").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            assert index < 2 * (killed_after + 10), "the checkpoint is late"

    with Ranks.start() as ranks:
        processor = recipe.parts.processor(recipe.model, recipe.image, recipe.template)
        batches = data.batches(processor, stage.batch_size, stage.max_length, stage.seed)
        assert 2 < len(batches) < 20  # several epochs end within the run
        model = recipe.parts.model(recipe.model, 0)
        run_stage(model, Watched(batches, die), stage, directory, resume=True, ranks=ranks)
    return 0


def losses(directory: Path) -> list[tuple[int, float, float]]:
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


@pytest.mark.parametrize("world", [1, 2])
def test_thirty_steps_equal_ten_kill_ten_kill_ten_loss_by_loss(tmp_path, world):
    assert launch(world, thirty_steps, tmp_path / "straight", 0, None) == [0] * world
    for number, (workers, killed_after) in enumerate([(0, 10), (2, 20), (0, None)]):
        ends = launch(world, thirty_steps, tmp_path / "killed", workers, killed_after)
        assert (KILLED in ends) == (number < 2), ends
    straight = losses(tmp_path / "straight")
    assert len(straight) == 30
    assert losses(tmp_path / "killed") == straight


STEPS = replace(toy.STAGE, steps=2000, checkpoint_interval=1, log_interval=2000)


def until_killed(directory: Path, delay: float) -> None:
    """Trains with a checkpoint after every step until a timer, started in the third, kills the process."""
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    asked = []

    def start(index):
        asked.append(index)
        if len(asked) == 3:
            timer.start()

    run_stage(toy.make_model(), Watched(toy.RandomBatches(), start), STEPS, directory, resume=True)


def never_killed(steps: list[int]) -> dict[int, dict[str, torch.Tensor]]:
    """The weights after each of those steps."""
    model, after = toy.make_model(), {}

    def keep(step):
        if step in steps:
            after[step] = toy.weights(model)
        if step > steps[-1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(model, Watched(toy.RandomBatches(), keep), STEPS)
    return after


def test_twenty_kills_at_random_moments_leave_no_checkpoint_that_loads_wrong(tmp_path):
    chance, reached = random.Random(0), []
    for _ in range(20):
        assert launch(1, until_killed, tmp_path, chance.uniform(0.01, 0.08)) == [KILLED]
        found = checkpoint.load_newest(tmp_path / "checkpoints")
        assert found is not None
        reached.append((found.step, dict(found.weights)))
    steps = [step for step, _ in reached]
    assert steps == sorted(steps)
    assert steps[-1] > 20

    (expected,) = launch(1, never_killed, steps)
    for step, weights in reached:
        assert toy.same(weights, {name: expected[step][name] for name in weights}), step
