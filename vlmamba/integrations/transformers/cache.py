"""The recurrent state where transformers expects a cache of keys and values."""

from torch import Tensor
from transformers import Cache

from vlmamba.mamba import MambaModel
from vlmamba.state import State


class StateCache(Cache):
    """A `State` under transformers' interface: the same size whatever has been read.

    `StateCache(state)` continues from a state made elsewhere, `vlm.read(picture)` for example. Positions
    are counted with their padding, as transformers counts them.
    """

    def __init__(self, state: State | None = None) -> None:
        super().__init__(layers=[])
        self.state = state
        self.num_positions = 0 if state is None else int(state.length.max())

    def for_input(self, inputs_embeds: Tensor, model: MambaModel) -> State:
        """The state that a forward pass over inputs_embeds (b, l, d) continues from."""
        if self.state is None:
            self.state = State.allocate(
                model.config, inputs_embeds.shape[0], inputs_embeds.device, inputs_embeds.dtype
            )
        return self.state

    def advance(self, num_positions: int) -> None:
        """Counts positions that a forward pass has read."""
        self.num_positions += num_positions

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions read so far, padding included."""
        return self.num_positions

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no longest input."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: there is no longest input."""
        return -1

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        return self.num_positions > 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps the given rows, in that order, as beam search asks."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.state is not None:
            self.state = self.state.select(indices.to(self.state.length.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            self.state = self.state.fork(repeats)

    def reset(self) -> None:
        self.state, self.num_positions = None, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Raises ValueError: a recurrent state cannot forget its last tokens."""
        raise ValueError(
            "a recurrent state cannot be cropped: keep a copy (StateCache(cache.state.clone())) to return to"
        )

    @property
    def batch_size(self) -> int:
        return -1 if self.state is None else self.state.batch_size

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_initialized(self) -> bool:
        return self.state is not None

    @property
    def is_croppable(self) -> bool:
        return False
