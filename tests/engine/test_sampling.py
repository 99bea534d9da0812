"""Draws follow the distribution that transformers' own filters leave."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vlmamba.engine.sampling import Sampler, Sampling, filtered

NO_PROMPT = torch.full((1, 1), -1)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=1.3, top_k=5),
        Sampling(temperature=1.0, top_k=500),
        Sampling(temperature=1.0, top_p=0.6),
        Sampling(temperature=1.0, top_p=0.01),
        Sampling(temperature=2.0, min_p=0.2),
        Sampling(temperature=1.5, top_k=30, top_p=0.8, min_p=0.05),
    ],
    ids=str,
)
def test_filters_equal_transformers(sampling):
    logits = 3 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    expected = warpers(torch.zeros(6, 1, dtype=torch.long), logits)
    torch.testing.assert_close(filtered(logits, sampling), expected)


def test_repetition_penalty_equals_transformers_and_remembers_what_it_wrote():
    prompt = torch.tensor([[3, 3, 9, -1], [4, -1, -1, -1]])
    sampling = Sampling(repetition_penalty=1.8)
    sampler = Sampler(sampling, prompt, 20, never=19)
    oracle = RepetitionPenaltyLogitsProcessor(1.8)
    history = [[3, 3, 9], [4]]
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        logits = torch.randn(2, 20, generator=generator) + 2 * (torch.arange(20) < 5)
        drawn = sampler.draw(logits, [0, 1]).tolist()
        for row, ids in enumerate(history):
            scores = oracle(torch.tensor([ids]), logits[row : row + 1, :19].clone())
            assert drawn[row] == int(scores.argmax())
            ids.append(drawn[row])


def test_draws_have_the_frequencies_of_the_distribution():
    logits = torch.tensor([[0.1, 1.2, -0.5, 2.0, 5.0]])
    sampler = Sampler(Sampling(temperature=1.0, seed=1), NO_PROMPT, 5, never=4)
    draws = torch.cat([sampler.draw(logits, [0]) for _ in range(4000)])
    frequencies = torch.bincount(draws, minlength=5) / 4000
    torch.testing.assert_close(frequencies[:4], logits[0, :4].softmax(0), atol=0.025, rtol=0)
    assert frequencies[4] == 0


def test_a_ruled_out_token_is_never_drawn():
    logits = torch.linspace(0, 0.1, 50)[None]
    sampler = Sampler(Sampling(temperature=1.0, top_k=3, seed=2), NO_PROMPT, 50, never=0)
    draws = torch.cat([sampler.draw(logits, [0]) for _ in range(300)])
    assert set(draws.tolist()) == {47, 48, 49}


def test_without_a_seed_every_call_draws_anew():
    logits = torch.zeros(1, 1000)
    drawn = {
        tuple(int(sampler.draw(logits, [0])) for _ in range(4))
        for sampler in (
            Sampler(Sampling(temperature=1.0), NO_PROMPT, 1000, never=0) for _ in range(3)
        )
    }
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 1.0),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("stop", ("",)),
        ("stop", "end"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        replace(Sampling(), **{name: value})
