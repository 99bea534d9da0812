"""Length grouping, in LLaVA's order: the public cases hold exact index lists."""

import json
from pathlib import Path

import pytest
import torch
from test_packing import SomeSamples

from vlmamba.data.grouping import Grouped, even_chunks, grouped_order

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "llava_train.json").read_text())[
    "cases"
]


def cases(kind):
    chosen = [case for case in GOLDEN if case["kind"] == kind]
    return pytest.mark.parametrize("case", chosen, ids=[case["id"] for case in chosen])


@cases("chunks")
def test_chunks_are_llavas(case):
    given = case["input"]
    chunks = even_chunks(given["indices"], given["lengths"], given["num_chunks"])
    assert chunks == case["expected"]


@cases("sampler")
def test_the_order_is_llavas(case):
    given = case["input"]
    generator = torch.Generator().manual_seed(given["torch_seed"])
    order = grouped_order(given["lengths"], given["batch_size"], given["world_size"], generator)
    assert order == case["expected"]


def test_a_sample_of_no_length_is_an_error():
    with pytest.raises(ValueError, match="length 0"):
        grouped_order([3, 0], 1, 1, torch.Generator())


def test_full_batches_hold_one_modality_and_every_epoch_every_sample():
    samples = SomeSamples()
    shows = [bool(sample.pictures) for sample in samples.samples]
    grouped = Grouped(samples, shows, batch_size=3, seed=0)
    for epoch in range(2):
        batches = [grouped.batch(epoch * len(grouped) + k) for k in range(len(grouped))]
        names = [name for batch in batches for name in batch.sample_ids]
        assert sorted(names) == sorted(sample.name for sample in samples.samples)
        for batch in batches[:-2]:
            assert len({shows[int(name[1:])] for name in batch.sample_ids}) == 1
    assert grouped.order(0) != grouped.order(1)
    assert batches[0].attention_mask is not None
    assert int(batches[0].attention_mask.sum()) == batches[0].num_tokens
