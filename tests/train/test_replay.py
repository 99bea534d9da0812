"""A replayed step is the step itself, over tensors that stay where they are."""

from dataclasses import replace

import pytest
import torch
import toy

from vlmamba.data.batches import Batch
from vlmamba.train.loop import language_loss, run_stage
from vlmamba.train.replay import ReplayedPasses

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


class Alike(toy.RandomBatches):
    """Batches of one shape, on a device, of which every token behind the picture is learnt."""

    def __init__(self, device="cpu"):
        self.device = torch.device(device)

    def batch(self, index):
        found = super().batch(index)
        labels = found.input_ids.masked_fill(torch.arange(15) < 7, toy.IGNORE_INDEX)
        return replace(found, labels=labels, sample_ids=()).to(self.device)


def plain_loss(model, batch):
    """As the loop's own loss, without a look at where the supervised tokens are."""
    core = model.model
    pictures = core.connector(core.vision_tower(batch.pixel_values), core.config.vision.grid)
    words = core.language_model.embeddings(batch.input_ids)
    hidden = core.language_model(torch.cat([words[:, :1], pictures, words[:, 5:]], 1))
    logits = model.lm_head(hidden[:, 6:-1]).flatten(0, 1)
    targets = batch.labels[:, 7:].flatten()
    total = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return total, torch.ones((), dtype=torch.long, device=total.device) * len(targets)


def emulated(parameters):
    """What a graph does to memory: later runs write where the first one wrote, and read where it read."""

    def record(run):
        run()
        places = [(p, p.grad) for p in parameters if p.grad is not None]

        def replay():
            run()
            for parameter, place in places:
                place.copy_(parameter.grad)

        return replay

    return record


def test_gradients_are_those_of_each_batch_and_buffers_are_left_alone():
    model = toy.make_model()
    model.register_buffer("seen", torch.zeros(()))
    parameters = [p for p in model.parameters() if p.requires_grad]

    def passes(batch: Batch) -> torch.Tensor:
        model.seen += 1
        total, count = plain_loss(model, batch)
        total.backward()
        return torch.stack([total.detach().double(), count.double()])

    batches, state = Alike(), torch.random.get_rng_state()
    replayed = ReplayedPasses(
        passes, parameters, [model.seen], batches.batch(0), emulated(parameters)
    )
    assert model.seen == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    first = None
    for index in (3, 1, 4):
        replayed(batches.batch(index))
        found = [p.grad.clone() for p in parameters]
        first = found if first is None else first
        model.zero_grad(set_to_none=True)
        passes(batches.batch(index))
        for ours, parameter in zip(found, parameters, strict=True):
            torch.testing.assert_close(ours, parameter.grad)
    assert not torch.equal(found[0], first[0])
    longer = replace(batches.batch(0), input_ids=torch.zeros(2, 16, dtype=torch.long))
    with pytest.raises(ValueError, match=r"one shape, input_ids \(2, 15\) became \(2, 16\)"):
        replayed(longer)


def test_settings_that_cannot_be_replayed():
    with pytest.raises(ValueError, match="a replayed step is one batch"):
        replace(toy.STAGE, replay=True, accumulation=2)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_stage_ends_where_it_would_without(device, name, tmp_path):
    ends = []
    for replay in (False, True):
        model = toy.make_model().to(device)
        stage = replace(toy.STAGE, name=name, replay=replay, average=0.9, max_skipped=1)
        home = tmp_path / f"{replay}"
        assert run_stage(model, Alike(device), stage, home, objective=plain_loss).finished
        ends.append(model)
    start = toy.make_model()
    for (key, one), other in zip(ends[0].named_parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=key)
    assert not torch.equal(ends[0].lm_head.weight.cpu(), start.lm_head.weight)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_loss_that_waits_for_the_device_is_computed_step_by_step(tmp_path, caplog):
    model = toy.make_model().to("cuda")
    stage = replace(toy.STAGE, replay=True)
    assert run_stage(model, Alike("cuda"), stage, tmp_path, objective=language_loss).finished
    assert "without a CUDA graph" in caplog.text
