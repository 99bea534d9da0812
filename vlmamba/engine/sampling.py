"""How the next token is drawn from the logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmamba.upload import upload


@dataclass(frozen=True)
class Sampling:
    """What a user may ask of an answer; the default is greedy.

    max_new_tokens: tokens written at most; temperature 0: the likeliest token, always; top_k 0, top_p 1,
    min_p 0 and repetition_penalty 1: off; seed None: another draw at every call, otherwise row i of a
    batch draws with `seed + i` and is what it would be alone with that seed; stop: texts that end the
    answer and are not part of it. Raises ValueError for a value out of range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            ("min_p", 0 <= self.min_p < 1, "0 (off) or more, and below 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0; 1 is off"),
            ("seed", self.seed is None or 0 <= self.seed < 2**63, "0 or more, or none"),
            ("stop", all(self.stop) and not isinstance(self.stop, str), "a tuple of texts"),
        ):
            if not good:
                raise ValueError(f"{name} must be {rule}, got {getattr(self, name)!r}")


GREEDY = Sampling()


class Sampler:
    """Draws one token per row. Each row has its own generator and memory, so neighbours change nothing.

    One uniform number a token, drawn on the CPU whatever the device, picks from the cumulated
    probabilities: the same seed draws the same numbers everywhere.
    """

    def __init__(self, sampling: Sampling, prompt: Tensor, vocab_size: int, never: int) -> None:
        """prompt (b, l): ids whose repetition is penalised, -1 where there is none; `never`: an id to avoid."""
        self.sampling = sampling
        # On the device already, and filled there: a number sent would wait for all that the device has to do.
        self.never = torch.full((), never, device=prompt.device)
        self.generators: list[torch.Generator] = []
        if sampling.temperature > 0:
            self.generators = [_generator(sampling.seed, row) for row in range(len(prompt))]
        self.seen: Tensor | None = None  # (b, v)
        self._rows: tuple[list[int], Tensor] | None = None
        if sampling.repetition_penalty != 1:
            seen = torch.zeros(
                (len(prompt), vocab_size + 1), dtype=torch.bool, device=prompt.device
            )
            self.seen = seen.scatter_(1, prompt % (vocab_size + 1), True)[:, :vocab_size]

    def draw(self, logits: Tensor, rows: Sequence[int]) -> Tensor:
        """logits (r, v) of the given rows of the batch -> their next tokens (r,)."""
        logits = logits.float().index_fill(1, self.never, -torch.inf)
        if self.seen is not None:
            penalty = self.sampling.repetition_penalty
            penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(self.seen[self._index(rows)], penalised, logits)
        if self.generators:
            uniform = torch.stack([torch.rand((), generator=self.generators[row]) for row in rows])
            tokens = _pick(filtered(logits, self.sampling), upload(uniform, logits.device))
        else:
            tokens = logits.argmax(-1)
        if self.seen is not None:
            self.seen[self._index(rows), tokens] = True
        return tokens

    def _index(self, rows: Sequence[int]) -> Tensor:
        """The rows as a tensor, made anew only when they change."""
        if self._rows is None or self._rows[0] != list(rows):
            self._rows = (list(rows), torch.tensor(rows, device=self.never.device))
        return self._rows[1]


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (b, v) over the temperature, -inf for every token that top_k, top_p or min_p rules out."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1:
        descending, order = logits.sort(dim=-1, descending=True, stable=True)
        probabilities = descending.softmax(-1)
        # a token stays while those before it have not yet reached top_p; the first always does
        surplus = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        logits = logits.masked_fill(
            torch.zeros_like(surplus).scatter(1, order, surplus), -torch.inf
        )
    if sampling.min_p > 0:
        probabilities = logits.softmax(-1)
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(probabilities < least, -torch.inf)
    return logits


def _pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulated probability passes uniform (b,), drawn from [0, 1)."""
    cumulated = logits.double().softmax(-1).cumsum(-1)
    target = uniform[:, None] * cumulated[:, -1:]
    tokens = torch.searchsorted(cumulated, target, right=True)[:, 0]
    last = (logits > -torch.inf).double().cumsum(-1).argmax(-1)  # the last token not ruled out
    return torch.minimum(tokens, last)


def _generator(seed: int | None, row: int) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed + row)
    return generator
