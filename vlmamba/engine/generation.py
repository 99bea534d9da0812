"""Token generation: one prefill, then decoding from the state, each row of a batch until its own end."""

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlmamba.engine.forward import embed, prefill
from vlmamba.engine.graphs import Graphs, graphs_of
from vlmamba.engine.rows import open_rows
from vlmamba.engine.sampling import GREEDY, Sampler, Sampling
from vlmamba.model import VLMamba
from vlmamba.state import State
from vlmamba.upload import upload

FinishReason = Literal["eos", "length", "stop"]


@dataclass(frozen=True)
class Step:
    """One new token in every row that was still writing: `tokens[i]` belongs to row `rows[i]`."""

    rows: list[int]
    tokens: list[int]


class Generation(Iterator[Step]):
    """A batch being written; iterate over it for the tokens.

    `finish_reasons` holds why each row ended, None while it writes. `state` continues each row: it has
    read the prompt and every token written but the last. `first_token_s` and `decode_s` are the seconds
    until the first tokens and from there on.
    """

    def __init__(
        self,
        model: VLMamba,
        embeds: Tensor,
        attention_mask: Tensor,
        prompt: Tensor,
        state: State,
        sampling: Sampling,
        prefill_chunk: int | None,
        graphs: Graphs | None,
    ) -> None:
        self.state = state
        self.finish_reasons: list[FinishReason | None] = [None] * len(embeds)
        self.first_token_s = 0.0
        self.decode_s = 0.0
        self._model = model
        self._sampling = sampling
        self._graphs = graphs
        # An image token stands for a picture: the model can read one, never write one.
        config = model.config
        self._sampler = Sampler(sampling, prompt, config.text.vocab_size, config.image_token_id)
        self._steps = self._run(embeds, attention_mask, prefill_chunk)

    def __next__(self) -> Step:
        return next(self._steps)

    def close(self) -> None:
        """Stops writing; `state` then stands where the last step left it."""
        self._steps.close()

    def finish(self, row: int, reason: FinishReason = "stop") -> None:
        """Ends a row between two steps, for a reason that only its reader can see."""
        self.finish_reasons[row] = reason

    def _run(
        self, embeds: Tensor, attention_mask: Tensor, prefill_chunk: int | None
    ) -> Generator[Step, None, None]:
        start = time.perf_counter()
        logits = prefill(
            self._model, embeds, attention_mask, self.state, prefill_chunk, self._graphs
        )
        del embeds
        drawn = self._sampler.draw(logits, range(self.state.batch_size))
        rows = open_rows(self._model, self.state, self._graphs)
        try:
            for count in range(1, self._sampling.max_new_tokens + 1):
                arriving = Arriving(drawn)
                rows.settle()
                following: Tensor | None = None
                if rows.ahead and count < self._sampling.max_new_tokens:
                    following = self._sampler.draw(rows.step(drawn), rows.rows)
                tokens = arriving.tokens()
                if count == 1:
                    self.first_token_s = time.perf_counter() - start
                    start = time.perf_counter()
                else:
                    self.decode_s = time.perf_counter() - start
                self._note_ends(rows.rows, tokens, count)
                yield Step(rows.rows, tokens)
                places = [i for i, row in enumerate(rows.rows) if self.finish_reasons[row] is None]
                if not places:
                    return
                if len(places) < len(rows.rows):
                    rows.keep(places)
                    index = torch.tensor(places, device=drawn.device)
                    drawn = drawn[index]
                    following = None if following is None else following[index]
                if following is None:
                    following = self._sampler.draw(rows.step(drawn), rows.rows)
                drawn = following
        finally:
            rows.close()

    def _note_ends(self, rows: list[int], tokens: list[int], count: int) -> None:
        for row, token in zip(rows, tokens, strict=True):
            if token == self._model.config.eos_token_id:
                self.finish(row, "eos")
            elif count == self._sampling.max_new_tokens:
                self.finish(row, "length")


class Arriving:
    """Tokens (r,) on their way from the device, while it goes on with what was asked of it since."""

    def __init__(self, drawn: Tensor) -> None:
        self._drawn = drawn
        self._event: torch.cuda.Event | None = None
        if drawn.is_cuda:
            self._drawn = torch.empty(drawn.shape, dtype=drawn.dtype, pin_memory=True)
            self._drawn.copy_(drawn, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(drawn.device))

    def tokens(self) -> list[int]:
        if self._event is not None:
            self._event.synchronize()
        return self._drawn.tolist()


def generate(
    model: VLMamba,
    input_ids: Tensor,
    pixel_values: Tensor | None = None,
    *,
    image_embeds: Tensor | None = None,
    attention_mask: Tensor | None = None,
    state: State | None = None,
    sampling: Sampling = GREEDY,
    prefill_chunk: int | None = None,
    graphs: Graphs | None = None,
) -> Generation:
    """Writes on after each row of input_ids (b, l); padding is where `attention_mask` (b, l) is 0.

    Ids and mask may lie on the CPU: then nothing waits for a GPU before the first token does. Pictures as in
    `VLMambaModel.embed`; `state`, where given, is continued from and updated in place. A row
    ends at eos, at `sampling.max_new_tokens` or when `Generation.finish` is called for it, and a row that has
    ended costs nothing more. Stop texts are the reader's affair: see `AnswerText`. `graphs`: the model's, where
    the caller has asked `graphs_of` already.
    Raises ValueError for a row without tokens, or pictures that do not fit the prompt.
    """
    graphs = graphs or graphs_of(model)  # before a question to the device, which waits
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    mask = mask.bool()  # (b, l)
    if mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, input_ids {tuple(input_ids.shape)}"
        )
    if not bool(mask.any(1).all()):
        raise ValueError("a row of the prompt is empty: every row needs at least one token")
    if prefill_chunk is not None and prefill_chunk < 1:
        raise ValueError(f"prefill_chunk must be at least 1, got {prefill_chunk}")
    if state is None:
        state = model.allocate_state(len(input_ids))
    embeds = embed(model, input_ids, pixel_values, image_embeds, graphs)
    prompt = upload(input_ids.masked_fill(~mask, -1), embeds.device)
    return Generation(model, embeds, mask, prompt, state, sampling, prefill_chunk, graphs)
