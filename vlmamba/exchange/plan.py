"""Which published tensor becomes which tensor of the model: decided before a byte is read, strictly."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vlmamba.exchange.configs import same
from vlmamba.exchange.layouts import HEAD, LANGUAGE
from vlmamba.exchange.sources import Checkpoint
from vlmamba.weight_files import CheckpointError, some

# used: as it is; reshaped: axes of length one more or fewer; padded: rows of zeros to the vocabulary's whole
# tiles; tied: left out, for it equals the table of embeddings; drawn: random, from the stated seed.
Fate = Literal["used", "reshaped", "padded", "tied", "drawn"]

TABLE = f"{LANGUAGE}embeddings.weight"


@dataclass(frozen=True)
class Placed:
    """A tensor of the model, and the tensor of a checkpoint it comes from (None: drawn)."""

    name: str
    shape: tuple[int, ...]
    fate: Fate
    checkpoint: Checkpoint | None = None
    published: str | None = None

    def read(self) -> Tensor:
        """The tensor in its stored type, in the model's shape."""
        assert self.checkpoint is not None
        assert self.published is not None
        tensor = self.checkpoint.weights[self.published]
        if self.fate == "padded":
            padding = tensor.new_zeros(self.shape[0] - len(tensor), *self.shape[1:])
            return torch.cat([tensor, padding])
        return tensor.reshape(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        assert self.checkpoint is not None
        assert self.published is not None
        return self.checkpoint.weights[self.published].dtype


@dataclass(frozen=True)
class Unused:
    """A tensor of a checkpoint that the model does not take, and why."""

    checkpoint: Checkpoint
    published: str
    reason: str


@dataclass
class Plan:
    placed: dict[str, Placed] = field(default_factory=dict)
    tied: list[Placed] = field(default_factory=list)
    unused: list[Unused] = field(default_factory=list)

    def take(
        self, checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]], tied: bool
    ) -> None:
        """Places every `wanted` tensor (name -> shape) out of one checkpoint, and accounts for all its others.

        tied: the head is the table of embeddings. Raises CheckpointError for a tensor that is missing, of another
        shape or not of floats, and for a tied head that differs from the table.
        """
        ours: dict[str, str] = {}
        for published in checkpoint.weights:
            name = checkpoint.layout.place(published)
            if name is not None and name in wanted and name not in ours:
                ours[name] = published
            elif name == HEAD and tied and TABLE in wanted:
                self._tie(checkpoint, published)
            else:
                reason = checkpoint.layout.why_unused(published)
                if name is not None and not _in_parts(name, wanted):
                    reason = "of a part that comes from elsewhere"
                self.unused.append(Unused(checkpoint, published, reason))
        missing = wanted.keys() - ours.keys()
        if missing:
            raise CheckpointError(f"{checkpoint.label} lacks {some(missing)}: the model needs it")
        for name, published in ours.items():
            shape = tuple(wanted[name])
            fate = _fate(checkpoint, name, published, shape)
            self.placed[name] = Placed(name, shape, fate, checkpoint, published)

    def draw(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """The tensors of a part that no checkpoint gives."""
        for name, shape in wanted.items():
            self.placed[name] = Placed(name, tuple(shape), "drawn")

    def _tie(self, checkpoint: Checkpoint, published: str) -> None:
        table = next(n for n in checkpoint.weights if checkpoint.layout.place(n) == TABLE)
        head = checkpoint.weights[published]
        if not same(head, checkpoint.weights[table]):
            raise CheckpointError(
                f"{checkpoint.label}: {published} differs from {table}, but its config.json ties them "
                "(tie_embeddings, tie_word_embeddings): one of the two is wrong"
            )
        self.tied.append(Placed(HEAD, tuple(head.shape), "tied", checkpoint, published))


def _in_parts(name: str, wanted: Iterable[str]) -> bool:
    """Whether some tensor of the same part (tower, connector, language model, head) is wanted."""
    part = ".".join(name.split(".")[:2])
    return any(other.startswith(part) for other in wanted)


def _fate(checkpoint: Checkpoint, name: str, published: str, shape: tuple[int, ...]) -> Fate:
    tensor = checkpoint.weights[published]
    found = tuple(tensor.shape)
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{checkpoint.label}: {published} is of {tensor.dtype}, expected floats"
        )
    if found == shape:
        return "used"
    if [n for n in found if n != 1] == [n for n in shape if n != 1]:
        return "reshaped"
    if name in (TABLE, HEAD) and found[1:] == shape[1:] and found[0] < shape[0]:
        return "padded"
    raise CheckpointError(
        f"{checkpoint.label}: {published} is {found}, the model needs {shape} for {name}"
    )
