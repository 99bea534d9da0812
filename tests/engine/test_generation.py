"""Whatever the batch, the chunks and the padding, a row is written as the plain forward pass would have it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vlmamba.engine import Generation, Sampling, generate
from vlmamba.model import VLMamba

pytestmark = pytest.mark.usefixtures("graphs")

IMAGE = [2] * 4
PROMPTS = [[5, *IMAGE, 6, 7], [9, 8], [5, *IMAGE, *IMAGE, 30, 31, 32, 33, 34], [44], [50, 51, 52]]
NUM_PICTURES = [1, 0, 2, 0, 0]
PIXELS = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def pixels_of(row: int) -> Tensor | None:
    start = sum(NUM_PICTURES[:row])
    return PIXELS[start : start + NUM_PICTURES[row]] if NUM_PICTURES[row] else None


def padded(prompts: list[list[int]], side: str) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = torch.ones((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if side == "left" else slice(len(prompt))
        ids[row, place], mask[row, place] = torch.tensor(prompt), 1
    return ids, mask


def written(generation: Generation) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in generation.finish_reasons]
    for step in generation:
        for row, token in zip(step.rows, step.tokens, strict=True):
            rows[row].append(token)
    return rows


@torch.no_grad()
def greedy_by_forward(model: VLMamba, row: int, count: int) -> list[int]:
    """The definition: the whole sequence through the model again for every token."""
    ids = list(PROMPTS[row])
    while len(ids) < len(PROMPTS[row]) + count:
        logits = model(torch.tensor([ids]), pixels_of(row)).logits
        logits[..., model.config.image_token_id] = -torch.inf
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == model.config.eos_token_id:
            break
    return ids[len(PROMPTS[row]) :]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("chunk", [None, 1, 3, 64])
def test_greedy_equals_the_plain_forward_in_any_batch(model, side, chunk):
    expected = [greedy_by_forward(model, row, 12) for row in range(5)]
    ids, mask = padded(PROMPTS, side)
    batch = generate(
        model, ids, PIXELS, attention_mask=mask, sampling=Sampling(12), prefill_chunk=chunk
    )
    assert written(batch) == expected
    for row, prompt in enumerate(PROMPTS):
        alone = generate(
            model,
            torch.tensor([prompt]),
            pixels_of(row),
            sampling=Sampling(12),
            prefill_chunk=chunk,
        )
        assert written(alone) == [expected[row]]


def test_pictures_may_come_embedded(model):
    embeds = model.model.image_embeds(PIXELS)
    ids, mask = padded(PROMPTS, "left")
    from_pixels = generate(model, ids, PIXELS, attention_mask=mask, sampling=Sampling(6))
    from_embeds = generate(
        model, ids, image_embeds=embeds, attention_mask=mask, sampling=Sampling(6)
    )
    assert written(from_pixels) == written(from_embeds)


def test_state_has_read_all_but_the_last_token_of_every_row(model):
    ids, mask = padded(PROMPTS, "right")
    state = model.allocate_state(5)
    generation = generate(
        model, ids, PIXELS, attention_mask=mask, state=state, sampling=Sampling(9)
    )
    rows: list[list[int]] = [[] for _ in range(5)]
    for step in generation:
        for row, token in zip(step.rows, step.tokens, strict=True):
            rows[row].append(token)
            if len(rows[row]) == 2 * row + 1:
                generation.finish(row)
    assert [len(row) for row in rows] == [1, 3, 5, 7, 9]
    for row, prompt in enumerate(PROMPTS):
        alone = model.allocate_state(1)
        with torch.no_grad():
            model(torch.tensor([prompt + rows[row][:-1]]), pixels_of(row), state=alone)
        assert state.select(torch.tensor([row])).difference(alone) < 1e-10
        assert state.length[row] == alone.length[0]


def test_a_finished_row_stays_finished_and_changes_no_other(model):
    ids, mask = padded(PROMPTS, "left")
    whole = written(generate(model, ids, PIXELS, attention_mask=mask, sampling=Sampling(10)))
    generation = generate(model, ids, PIXELS, attention_mask=mask, sampling=Sampling(10))
    rows: list[list[int]] = [[] for _ in range(5)]
    for step in generation:
        for row, token in zip(step.rows, step.tokens, strict=True):
            rows[row].append(token)
        if len(rows[0]) == 3:
            generation.finish(0)
        if len(rows[4]) == 5:
            generation.finish(4)
    assert rows == [whole[0][:3], *whole[1:4], whole[4][:5]]
    assert generation.finish_reasons[0] == generation.finish_reasons[4] == "stop"


def test_eos_ends_a_row_and_is_its_last_token(model):
    token = greedy_by_forward(model, 0, 4)[3]
    ending = (
        VLMamba(replace(model.config, eos_token_id=token)).to(torch.float64).requires_grad_(False)
    )
    ending.load_state_dict(model.state_dict())
    generation = generate(ending, torch.tensor([PROMPTS[0]]), pixels_of(0), sampling=Sampling(50))
    (row,) = written(generation)
    assert row[-1] == token
    assert token not in row[:-1]
    assert generation.finish_reasons == ["eos"]


def test_continuing_from_a_state_equals_reading_everything(model):
    state = model.allocate_state(1)
    head, tail = PROMPTS[2][:9], PROMPTS[2][9:]
    with torch.no_grad():
        model(torch.tensor([head]), pixels_of(2), state=state)
    continued = generate(model, torch.tensor([tail]), state=state, sampling=Sampling(8))
    assert written(continued) == [greedy_by_forward(model, 2, 8)]


def test_closing_midway_leaves_every_row_where_it_was(model):
    ids, mask = padded(PROMPTS[3:], "left")
    state = model.allocate_state(2)
    generation = generate(model, ids, attention_mask=mask, state=state, sampling=Sampling(30))
    rows: list[list[int]] = [[], []]
    for step in generation:
        for row, token in zip(step.rows, step.tokens, strict=True):
            rows[row].append(token)
        if len(rows[0]) == 2:
            generation.finish(0)
        if len(rows[1]) == 5:
            break
    generation.close()
    assert state.length.tolist() == [1 + 1, 3 + 4]
    alone = model.allocate_state(1)
    with torch.no_grad():
        model(torch.tensor([PROMPTS[4] + rows[1][:-1]]), state=alone)
    assert state.select(torch.tensor([1])).difference(alone) < 1e-10


SAMPLINGS = {
    "plain": Sampling(12, temperature=1.5, seed=11),
    "cut": Sampling(12, temperature=2.0, top_k=20, top_p=0.9, min_p=0.01, seed=5),
    "penalised": Sampling(12, temperature=1.0, repetition_penalty=1.3, seed=7),
    "greedy, penalised": Sampling(12, repetition_penalty=1.7),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_row_draws_what_it_would_draw_alone(model, name):
    sampling = SAMPLINGS[name]
    ids, mask = padded(PROMPTS, "right")
    batch = written(generate(model, ids, PIXELS, attention_mask=mask, sampling=sampling))
    again = written(generate(model, ids, PIXELS, attention_mask=mask, sampling=sampling))
    assert batch == again
    for row, prompt in enumerate(PROMPTS):
        seed = None if sampling.seed is None else sampling.seed + row
        alone = generate(
            model, torch.tensor([prompt]), pixels_of(row), sampling=replace(sampling, seed=seed)
        )
        assert written(alone) == [batch[row]]


def test_what_cannot_be_written_is_refused(model):
    ids = torch.tensor([[5, 6], [7, 8]])
    with pytest.raises(ValueError, match="a row of the prompt is empty"):
        generate(model, ids, attention_mask=torch.tensor([[1, 1], [0, 0]]))
    with pytest.raises(ValueError, match="attention_mask has shape"):
        generate(model, ids, attention_mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match="as many pictures"):
        generate(model, ids, PIXELS)
    with pytest.raises(ValueError, match="prefill_chunk"):
        generate(model, ids, prefill_chunk=0)


def test_a_state_of_another_batch_size_is_refused(model):
    other = model.allocate_state(3)
    with pytest.raises(ValueError, match="the state holds 3 sequences, the input 1"):
        next(generate(model, torch.tensor([[5]]), state=other))
