"""Made-up samples with the lengths of LLaVA's two training sets, random ids and random pictures.

The sources and counts of the second set are LLaVA's (`llava_v1_5_mix665k.json`); rounds and tokens a round are assumed
from what each source is (all questions about a picture in one conversation, answers of a word or two for the VQA sets,
BLIP's captions of a dozen tokens, ShareGPT's long texts), and they are written into every record made with them.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmamba.data.samples import Sample

PATCHES, IMAGE, PAD = 729, 50277, 1


@dataclass(frozen=True)
class Kind:
    """Samples of one source: how many, rounds (fewest, most), and tokens of a question and of an answer, on average."""

    count: int
    rounds: tuple[int, int]
    question: int
    answer: int
    picture: bool = True


STAGES = {
    "align": {"blip captions": Kind(558_128, (1, 1), 0, 14)},
    "finetune": {
        "llava conversation": Kind(57_669, (3, 6), 16, 45),
        "llava detail": Kind(23_240, (1, 1), 16, 120),
        "llava reasoning": Kind(76_803, (1, 1), 22, 160),
        "sharegpt": Kind(40_688, (1, 8), 60, 270, picture=False),
        "vqav2": Kind(82_783, (3, 8), 22, 3),
        "gqa": Kind(72_140, (6, 20), 24, 3),
        "okvqa": Kind(8_998, (1, 1), 24, 3),
        "ocrvqa": Kind(80_000, (4, 6), 24, 6),
        "a-okvqa": Kind(66_160, (1, 1), 55, 3),
        "textcaps": Kind(21_953, (1, 1), 70, 16),
        "refcoco": Kind(48_447, (2, 14), 28, 18),
        "visual genome": Kind(86_417, (4, 10), 28, 18),
    },
}


class LlavaLengths:
    """`count` samples drawn from a stage's sources; its own `processor`, as far as batches need one."""

    pad_token_id, image_token_id = PAD, IMAGE

    def __init__(self, stage: str, count: int, longest: int, seed: int = 0) -> None:
        chance = random.Random(seed)
        kinds = list(STAGES[stage].values())
        drawn = chance.choices(kinds, [kind.count for kind in kinds], k=count)
        self.layouts = [layout for kind in drawn if (layout := self._draw(kind, chance, longest))]
        self.lengths = [sum(n for n, _ in layout) for layout in self.layouts]
        self.has_picture = [layout[0] == (PATCHES, False) for layout in self.layouts]
        self.pictures = torch.randn(32, 3, 384, 384, generator=torch.Generator().manual_seed(seed))

    @property
    def processor(self) -> "LlavaLengths":
        return self

    def pixel_values(self, pictures: Sequence[int]) -> Tensor:
        return self.pictures[[number % len(self.pictures) for number in pictures]]

    def sample(self, k: int) -> Sample:
        generator = torch.Generator().manual_seed(k)
        ids = torch.randint(2, 50_000, (self.lengths[k],), generator=generator)
        if self.has_picture[k]:
            ids[:PATCHES] = IMAGE
        learnt = torch.cat([torch.full((n,), answer) for n, answer in self.layouts[k]])
        labels = torch.where(learnt, ids, -100)
        pictures = (k,) if self.has_picture[k] else ()
        return Sample(str(k), ids.tolist(), labels.tolist(), pictures)  # type: ignore[arg-type]

    @staticmethod
    def _draw(kind: Kind, chance: random.Random, longest: int) -> list[tuple[int, bool]]:
        """Pieces of a sample as (tokens, whether they are learnt); as many rounds as fit."""
        layout = [(PATCHES, False)] if kind.picture else []
        for _ in range(chance.randint(*kind.rounds)):
            # A log-normal of mean 1: most pieces short, a few very long.
            question, answer = (
                max(1, round(mean * chance.lognormvariate(-0.125, 0.5))) if mean else 0
                for mean in (kind.question, kind.answer)
            )
            if sum(n for n, _ in layout) + question + answer > longest:
                break
            layout += [(question, False), (answer, True)]
        return layout if len(layout) > int(kind.picture) else []
