"""Packed rows: every sample once, hardly a position wasted, and no sample that can see its neighbour."""

import random
from collections import Counter

import pytest
import torch
from tiny import IMAGE, tiny_config, tiny_processor

from vlmamba.data.batches import in_order
from vlmamba.data.drawn import Drawing
from vlmamba.data.faults import BadSampleError
from vlmamba.data.packing import Packed, shuffled
from vlmamba.data.samples import Sample, packed_batch, padded_batch
from vlmamba.model import IGNORE_INDEX, VLMamba
from vlmamba.template import Turn
from vlmamba.train.loop import language_loss

PROCESSOR = tiny_processor()
DRAWING = Drawing(size=16)


def a_sample(k: int, pictures: int = 1) -> Sample:
    """A question and an answer about the k-th drawing."""
    question, answer = DRAWING.dialogue(k)[0]
    ids, labels = PROCESSOR.training_ids(
        [Turn("user", question, pictures), Turn("assistant", answer)]
    )
    return Sample(f"s{k}", ids, labels, [DRAWING.picture(k + i) for i in range(pictures)])


class SomeSamples:
    """Twenty samples, three of which cannot be read."""

    def __init__(self, unreadable=()) -> None:
        self.processor, self.unreadable = PROCESSOR, unreadable
        self.samples = [a_sample(k, pictures=k % 3) for k in range(20)]
        self.lengths = [len(sample.input_ids) for sample in self.samples]

    def sample(self, k: int) -> Sample:
        if k in self.unreadable:
            raise BadSampleError("undecodable", f"sample s{k}")
        return self.samples[k]


def gradients(model, batch):
    model.zero_grad()
    total, count = language_loss(model, batch)
    total.backward()
    return (
        total.detach(),
        int(count),
        {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    )


def test_neighbours_change_neither_a_samples_loss_nor_its_gradients():
    torch.manual_seed(0)
    model = VLMamba(tiny_config())
    samples = [a_sample(0), a_sample(1, pictures=2), a_sample(2, pictures=0), a_sample(3)]
    alone = [gradients(model, padded_batch([sample], PROCESSOR)) for sample in samples]
    for rows in ([samples], [samples[::-1]], [samples[:1], samples[1:]]):
        total, count, grads = gradients(model, packed_batch(rows, PROCESSOR))
        assert count == sum(c for _, c, _ in alone)
        torch.testing.assert_close(total, sum(t for t, _, _ in alone), rtol=1e-5, atol=1e-5)
        for name, grad in grads.items():
            expected = sum(g[name] for _, _, g in alone if name in g)
            torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-5, msg=name)


def test_without_the_resets_neighbours_would_be_seen():
    torch.manual_seed(0)
    model = VLMamba(tiny_config())
    batch = packed_batch([[a_sample(0), a_sample(1)]], PROCESSOR)
    apart, _ = language_loss(model, batch)
    batch.reset = None
    mixed, _ = language_loss(model, batch)
    assert abs(apart - mixed) > 1e-4


def test_padded_rows_equal_packed_rows():
    torch.manual_seed(0)
    model = VLMamba(tiny_config())
    samples = [a_sample(k, pictures=k % 2) for k in range(4)]
    packed, n, packed_grads = gradients(model, packed_batch([samples], PROCESSOR))
    padded, m, padded_grads = gradients(model, padded_batch(samples, PROCESSOR))
    assert n == m
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    for name in packed_grads:
        torch.testing.assert_close(
            packed_grads[name], padded_grads[name], rtol=1e-3, atol=1e-5, msg=name
        )


def test_a_packed_row_holds_its_samples_end_to_end():
    samples = [a_sample(0), a_sample(1)]
    batch = packed_batch([samples, samples[:1]], PROCESSOR)
    first, second = (len(sample.input_ids) for sample in samples)
    assert batch.input_ids[0].tolist() == [*samples[0].input_ids, *samples[1].input_ids]
    assert batch.reset is not None
    assert batch.reset[0].nonzero().flatten().tolist() == [0, first]
    assert (batch.input_ids[1, first:] == PROCESSOR.pad_token_id).all()
    assert (batch.labels[1, first:] == IGNORE_INDEX).all()
    assert batch.num_tokens == 2 * first + second
    assert batch.sample_ids == ("s0", "s1", "s0")
    assert batch.pixel_values is not None
    assert len(batch.pixel_values) == int((batch.input_ids == IMAGE).sum()) // PROCESSOR.num_patches


def test_the_first_token_of_a_sample_is_never_learnt_from_its_neighbour():
    text = Sample("text", [5, 6, 7], [5, 6, 7])
    batch = packed_batch([[text, text]], PROCESSOR)
    assert batch.labels[0].tolist() == [IGNORE_INDEX, 6, 7, IGNORE_INDEX, 6, 7]


def test_rows_go_on_over_epochs_and_every_epoch_holds_every_sample_once():
    packed = Packed(SomeSamples(), batch_size=3, max_length=120, seed=1)
    rows_of_epochs = [[tuple(row) for row in packed._pack(epoch)] for epoch in range(3)]
    assert all(
        Counter(k for row in rows for k in row) == Counter(range(20)) for rows in rows_of_epochs
    )
    assert rows_of_epochs[0] != rows_of_epochs[1]
    flat = [row for rows in rows_of_epochs for row in rows]
    assert [tuple(packed.row(number)) for number in range(len(flat))] == flat
    assert len(packed) == -(-len(rows_of_epochs[0]) // 3)


def test_a_batch_is_a_pure_function_of_seed_and_number():
    one, other = (Packed(SomeSamples(), batch_size=2, max_length=120, seed=4) for _ in range(2))
    late = other.batch(9)  # before any other
    for index in range(10):
        batch = one.batch(index)
    assert torch.equal(batch.input_ids, late.input_ids)
    assert torch.equal(batch.pixel_values, late.pixel_values)
    assert shuffled(9, 1, 0) != shuffled(9, 2, 0)


def test_threads_that_ask_at_once_get_the_same_batches():
    wanted = [5, 0, 30, 2, 17, 9, 40, 1, 33, 3] * 3
    alone = Packed(SomeSamples(), batch_size=2, max_length=120, seed=4)
    together = Packed(SomeSamples(), batch_size=2, max_length=120, seed=4)
    direct = [alone.batch(index).sample_ids for index in wanted]
    assert [batch.sample_ids for batch in in_order(together, wanted, workers=4)] == direct


def test_unreadable_samples_are_left_out_aloud_up_to_a_limit(caplog):
    bad = SomeSamples(unreadable=(3, 7))
    packed = Packed(bad, batch_size=20, max_length=120, seed=0, max_bad=0.1)
    batch = packed.batch(0)
    assert not {"s3", "s7"} & set(batch.sample_ids)
    assert set(batch.skipped) == {f"a picture cannot be decoded: sample s{k}" for k in (3, 7)}
    assert "a picture cannot be decoded: sample s3" in caplog.text
    caplog.clear()
    packed.batch(0)  # again: the same two
    assert not caplog.text
    assert packed.budget.exceeded(2) is None
    assert "3 samples could not be read, max_bad allows 2" in str(packed.budget.exceeded(3))
    assert packed.budget.exceeded(4, epochs=2) is None


def test_a_skipped_sample_moves_no_other():
    whole, holed = (
        Packed(SomeSamples(unreadable), batch_size=2, max_length=120, seed=3, max_bad=1.0)
        for unreadable in ((), (3, 7, 11))
    )
    for index in range(2 * len(whole)):
        there = [name for name in whole.batch(index).sample_ids if name not in ("s3", "s7", "s11")]
        assert list(holed.batch(index).sample_ids) == there


def test_a_batch_that_lost_all_its_samples_teaches_nothing():
    packed = Packed(SomeSamples(range(20)), batch_size=2, max_length=120, seed=3, max_bad=1.0)
    padded = padded_batch([], PROCESSOR, ["gone"])
    model = VLMamba(tiny_config())
    for batch in (packed.batch(0), padded):
        total, count, grads = gradients(model, batch)
        assert (batch.token_count, int(count), float(total)) == (0, 0, 0.0)
        assert all(not grad.any() for grad in grads.values())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_that_share_the_steps_see_the_batches_of_one(world, workers):
    """The loop gives batch rank, rank + world, ... of every step's k to each process, from any step on."""
    k, steps, first = 4, 5, 2
    samples = SomeSamples(unreadable=(5,))
    alone = Packed(samples, batch_size=1, max_length=120, seed=2, max_bad=1.0)
    wanted = [alone.batch(index).sample_ids for index in range(first * k, (first + steps) * k)]
    seen = {}
    for rank in range(world):
        mine = Packed(samples, batch_size=1, max_length=120, seed=2, max_bad=1.0)
        indices = range(first * k + rank, (first + steps) * k, world)
        for index, batch in zip(indices, in_order(mine, indices, workers), strict=True):
            seen[index] = batch.sample_ids
    assert [seen[index] for index in sorted(seen)] == wanted


def test_the_batches_of_a_step_have_like_loads():
    """Eight processes that share a step of eight batches; tokens as LLaVA's second set has them."""
    rng = random.Random(0)
    lengths = [729 + round(rng.lognormvariate(5, 0.7)) for _ in range(6000)]
    lengths = [min(n, 2048) if k % 16 else min(n, 2048) - 729 + 300 for k, n in enumerate(lengths)]
    packed = Packed(Lengths(lengths), batch_size=4, max_length=4096, seed=0, together=8)
    loads = [sum(lengths[k] for k in packed.row(number)) for number in range(len(packed) * 4)]
    assert sum(loads) / (4096 * len(loads)) > 0.95
    for step in range(len(packed) // 8):
        shares = [sum(loads[at : at + 4]) for at in range(32 * step, 32 * step + 32, 4)]
        assert max(shares) * 8 / sum(shares) < 1.02


class Lengths:
    """Samples of which nothing but the lengths is asked."""

    processor = PROCESSOR

    def __init__(self, lengths) -> None:
        self.lengths = lengths

    def sample(self, k: int) -> Sample:
        raise AssertionError("no sample is asked for")


def test_a_sample_that_fits_no_row_is_an_error():
    with pytest.raises(ValueError, match="does not fit a row of 20"):
        Packed(SomeSamples(), batch_size=2, max_length=20, seed=0)
