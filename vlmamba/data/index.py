"""What every sample of a source is like, known before training: its tokens, its pictures, or what is wrong with it."""

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlmamba.data.cache import Table, Tables, cached, digest
from vlmamba.data.conversations import parse
from vlmamba.data.faults import FAULTS, BadSampleError
from vlmamba.data.processes import available_cores, spread
from vlmamba.data.sources import Source
from vlmamba.meter import Meter
from vlmamba.processing import Processor

PIECE = 2048  # samples of one piece of work
_REASONS = ("", *FAULTS)


@dataclass(frozen=True)
class Reading:
    """A sample that was read: its id, the names of its pictures and its number of ids, or why it is bad."""

    id: str = ""
    pictures: tuple[str, ...] = ()
    length: int = 0
    fault: BadSampleError | None = None


class Reader:
    """Reads ranges of a source's samples; pictures are not opened."""

    def __init__(self, source: Source, processor: Processor) -> None:
        self.source, self.processor = source, processor

    def __call__(self, numbers: range) -> list[Reading]:
        return [self.reading(k) for k in numbers]

    def reading(self, k: int) -> Reading:
        id_ = ""
        try:
            data = self.source.read(k)
            id_ = sample_id(data)
            conversation = parse(data)
        except BadSampleError as fault:
            return Reading(id_, fault=fault)
        ids, _ = self.processor.training_ids(conversation.turns)
        return Reading(id_, conversation.pictures, len(ids))


def readings(
    source: Source, processor: Processor, processes: int = 0
) -> Generator[list[Reading], None, None]:
    """Every sample of a source, in order and piece by piece; 0 processes: as many as there are cores for it."""
    count = len(source)
    pieces = [range(k, min(k + PIECE, count)) for k in range(0, count, PIECE)]
    if processes == 0:
        # A process takes seconds to start, which a few pieces are not worth.
        processes = 1 if len(pieces) < 8 else min(available_cores(), len(pieces) // 2, 16)
    return spread(Reader(source, processor), pieces, processes)


@dataclass(frozen=True)
class Index:
    """Of every sample: ids, pictures, and the place in FAULTS, from 1, of what is wrong (0: nothing)."""

    lengths: Table
    pictures: Table
    faults: Table

    def fault(self, k: int) -> str:
        return _REASONS[self.faults[k]]


def index_of(source: Source, processor: Processor) -> Index:
    """The index of a source; that of a large one is made once for every processor, and kept."""

    def make() -> Tables:
        rows = []
        count = len(source)
        with Meter("conversations", 0, count, quiet=count < 8 * PIECE, verb="read") as meter:
            for piece in readings(source, processor):
                rows += [(r.length, len(r.pictures), _number(r.fault)) for r in piece]
                meter.advance(len(piece))
        columns = np.array(rows, dtype=np.int32).reshape(-1, 3).T
        return {
            "lengths": columns[0],
            "pictures": columns[1],
            "faults": columns[2].astype(np.uint8),
        }

    key = digest([source.stamp, fingerprint(processor), list(FAULTS)])
    tables = cached("index", key, source.num_bytes, make)
    return Index(**tables)


def fingerprint(processor: Processor) -> str:
    """Tells apart processors that give a conversation another number of ids."""
    words: Sequence[Any] = [
        processor.tokenizer.to_str(),
        processor.num_patches,
        asdict(processor.template),
    ]
    return digest(words)


def _number(fault: BadSampleError | None) -> int:
    return 0 if fault is None else _REASONS.index(fault.reason)


def sample_id(data: Any) -> str:
    """The id of a raw sample, "" if it has none."""
    value = data.get("id") if isinstance(data, dict) else None
    return "" if value is None else str(value)
