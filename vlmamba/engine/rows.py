"""The rows of a batch that are still being written, and where their state is meanwhile."""

from typing import Protocol

import torch
from torch import Tensor

from vlmamba.engine.forward import decode
from vlmamba.engine.graphs import Graphs
from vlmamba.engine.lanes import Lane, Lanes
from vlmamba.model import VLMamba
from vlmamba.state import State


class Rows(Protocol):
    """Rows of a batch, in the order in which their tokens are given and their logits come back."""

    rows: list[int]
    # Whether a step may be started before it is known which rows go on.
    ahead: bool

    def step(self, tokens: Tensor) -> Tensor:
        """tokens (r,) read -> logits (r, v)."""
        ...

    def settle(self) -> None:
        """The last step counts: no state before it will be asked for."""
        ...

    def keep(self, places: list[int]) -> None:
        """Goes on with the rows at these places; the others' settled states go into the batch's state."""
        ...

    def close(self) -> None:
        """Puts every settled state into the batch's state."""
        ...


class PlainRows:
    """Rows decoded module by module; while all rows are written, in the batch's own state."""

    ahead = False

    def __init__(self, model: VLMamba, state: State) -> None:
        self.rows = list(range(state.batch_size))
        self._model = model
        self._state = self._running = state

    def step(self, tokens: Tensor) -> Tensor:
        return decode(self._model, tokens, self._running)

    def settle(self) -> None:
        """Steps are never ahead here."""

    def keep(self, places: list[int]) -> None:
        self.close()
        self.rows = [self.rows[i] for i in places]
        self._running = self._running.select(_index(places, self._state))

    def close(self) -> None:
        if self._running is not self._state:
            put_rows(self._state, _index(self.rows, self._state), self._running)


class LaneRows:
    """Rows decoded in a lane, each in a slot of its own until the lane is half empty."""

    ahead = True

    def __init__(self, lanes: Lanes, lane: Lane, state: State) -> None:
        self.rows = list(range(state.batch_size))
        self._lanes = lanes
        self._lane: Lane | None = None
        self._state = state
        self._enter(lane, state)

    def _enter(self, lane: Lane, state: State) -> None:
        """Takes the first slots of a lane."""
        self._lane = lane
        self._slots = list(range(len(self.rows)))
        self._index: Tensor | None = None  # None: the first slots, without a gap
        self._settled = lane.latest
        target = lane.states[lane.latest]
        target.conv_state[:, : len(self.rows)].copy_(state.conv_state)
        target.ssm_state[:, : len(self.rows)].copy_(state.ssm_state)
        target.length[: len(self.rows)].copy_(state.length)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        lane = self._open_lane
        if self._index is None:
            lane.tokens[: len(tokens)].copy_(tokens)
        else:
            lane.tokens.index_copy_(0, self._index, tokens)
        self._settled = lane.latest
        logits = lane.step()
        return logits[: len(tokens)] if self._index is None else logits[self._index]

    def settle(self) -> None:
        self._settled = self._open_lane.latest

    def keep(self, places: list[int]) -> None:
        lane = self._open_lane
        ended = [i for i in range(len(self.rows)) if i not in set(places)]
        self._save(ended)
        self.rows = [self.rows[i] for i in places]
        self._slots = [self._slots[i] for i in places]
        self._index = _index(self._slots, self._state)
        smaller = self._lanes.take(len(places)) if len(places) <= lane.size // 4 else None
        if smaller is not None:
            # Both states move: the step that is under way is a step of these rows, too.
            before, after = self._settled, lane.latest
            old, index = lane, self._index
            self._enter(smaller, old.states[before].select(index))
            if before != after:
                put_rows(
                    smaller.states[1 - smaller.latest],
                    torch.arange(len(places), device=index.device),
                    old.states[after].select(index),
                )
                smaller.latest = 1 - smaller.latest
            self._lanes.give_back(old)

    def close(self) -> None:
        if self._lane is not None:
            self._save(list(range(len(self.rows))))
            self._lanes.give_back(self._lane)
            self._lane = None

    def _save(self, places: list[int]) -> None:
        slots = _index([self._slots[i] for i in places], self._state)
        rows = _index([self.rows[i] for i in places], self._state)
        put_rows(self._state, rows, self._open_lane.states[self._settled].select(slots))

    @property
    def _open_lane(self) -> Lane:
        assert self._lane is not None, "these rows have been closed"
        return self._lane


def open_rows(model: VLMamba, state: State, graphs: Graphs | None) -> Rows:
    """All rows of a state that has read its prompts, to be decoded the fastest way there is for the model."""
    lane = graphs.lane(state.batch_size) if graphs is not None else None
    if graphs is None or lane is None:
        return PlainRows(model, state)
    return LaneRows(graphs.lanes, lane, state)


@torch.no_grad()
def put_rows(state: State, rows: Tensor, part: State) -> None:
    """Writes the rows of `part` into the given rows of `state`."""
    state.conv_state.index_copy_(1, rows, part.conv_state)
    state.ssm_state.index_copy_(1, rows, part.ssm_state)
    state.length.index_copy_(0, rows, part.length)


def _index(places: list[int], state: State) -> Tensor:
    return torch.tensor(places, dtype=torch.long, device=state.length.device)
