"""Held-out samples while training runs: their loss, and what the model answers to them by then."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmamba.data.batches import Batch
from vlmamba.data.samples import Sample, Samples, packed_batch
from vlmamba.model import IGNORE_INDEX, VLMamba
from vlmamba.train.ranks import Ranks


@dataclass(frozen=True)
class Answered:
    """A held-out sample: what was asked, what the data answers, and what the model did."""

    sample: str
    prompt: str
    wanted: str
    said: str


@dataclass(frozen=True)
class Seen:
    """loss: mean over the supervised tokens of all held-out samples."""

    loss: float
    answers: tuple[Answered, ...]


class HeldOut:
    """`count` of `samples`, evenly spaced; each is asked its first question.

    Answers are read off greedily from whole forward passes, one a token: they keep no state, so a model whose weights
    are shared out over processes answers like any other. All processes must ask at the same time.
    """

    def __init__(self, samples: Samples, count: int, max_new_tokens: int = 32) -> None:
        total = len(samples.lengths)
        count = min(count, total)
        self.samples = [samples.sample(k * total // count) for k in range(count)]
        self.processor, self.max_new_tokens = samples.processor, max_new_tokens

    @torch.no_grad()
    def look(self, model: VLMamba, ranks: Ranks) -> Seen:
        """Asks the model, which is left in the mode it was in."""
        training = model.training
        model.eval()
        try:
            device = ranks.device
            loss = self._loss(
                model, packed_batch([[s] for s in self.samples], self.processor).to(device)
            )
            said = self._answers(model, ranks)
        finally:
            model.train(training)
        answers = (self._answered(*pair) for pair in zip(self.samples, said, strict=True))
        return Seen(loss, tuple(answers))

    def _loss(self, model: VLMamba, batch: Batch) -> float:
        hidden = model.model(batch.input_ids, batch.pixel_values, reset=batch.reset)
        total, count = model.supervised_loss(hidden, batch.labels)
        return float(total / count)

    def _answers(self, model: VLMamba, ranks: Ranks) -> list[list[int]]:
        device = ranks.device
        rows = [list(sample.input_ids[: _first_learnt(sample)]) for sample in self.samples]
        prompts = [len(row) for row in rows]
        pictures = [picture for sample in self.samples for picture in sample.pictures]
        pixels = self.processor.pixel_values(pictures).to(device) if pictures else None
        embeds = None if pixels is None else model.model.image_embeds(pixels)
        ended = [False] * len(rows)
        for _ in range(self.max_new_tokens):
            ids, mask = self._padded(rows, device)
            hidden = model.model(ids, image_embeds=embeds, attention_mask=mask)
            last = hidden[torch.arange(len(rows)), mask.sum(1) - 1]
            logits = model.lm_head(last).float()
            logits[:, self.processor.image_token_id] = float("-inf")
            for number, token in enumerate(logits.argmax(1).tolist()):
                ended[number] |= token == self.processor.eos_token_id
                if not ended[number]:
                    rows[number].append(token)
            if not ranks.any(not all(ended))[0]:
                break
        return [row[start:] for row, start in zip(rows, prompts, strict=True)]

    def _padded(self, rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        longest, pad = max(map(len, rows)), self.processor.pad_token_id
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return ids, (torch.arange(longest, device=device) < lengths[:, None]).long()

    def _answered(self, sample: Sample, said: list[int]) -> Answered:
        start = _first_learnt(sample)
        end = start
        while end < len(sample.labels) and sample.labels[end] != IGNORE_INDEX:
            end += 1
        words = [i for i in sample.input_ids[:start] if i != self.processor.image_token_id]
        decode = self.processor.decode
        wanted = decode(sample.input_ids[start:end])
        return Answered(sample.name, decode(words).strip(), wanted.strip(), decode(said).strip())


def _first_learnt(sample: Sample) -> int:
    return next(k for k, label in enumerate(sample.labels) if label != IGNORE_INDEX)
