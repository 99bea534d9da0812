"""Data in LLaVA's format as training samples: conversations and their pictures."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vlmamba.data.conversations import parse
from vlmamba.data.faults import FAULTS, BadSampleError
from vlmamba.data.grouping import Grouped
from vlmamba.data.index import index_of
from vlmamba.data.packing import Packed
from vlmamba.data.samples import Sample
from vlmamba.data.sources import open_source, picture_of
from vlmamba.processing import Processor

log = logging.getLogger("vlmamba")


@dataclass(frozen=True)
class LlavaData:
    """Where the samples are, and whether to pack them or to group them by length."""

    file: str  # .json: a list; .jsonl: one sample a line; or a folder of shards, .tar or .parquet
    images: str = (
        ""  # the folder that the samples' picture paths start from; shards hold their pictures
    )
    packed: bool = True
    max_bad: float = 0.005  # share of samples that may be unreadable before training stops
    together: int = 8  # consecutive batches with as many tokens each: those of an optimiser step

    def batches(
        self, processor: Processor, batch_size: int, max_length: int, seed: int
    ) -> Packed | Grouped:
        samples = LlavaSamples(self.file, self.images, processor, max_length)
        if self.packed:
            return Packed(samples, batch_size, max_length, seed, self.max_bad, self.together)
        return Grouped(samples, samples.has_picture, batch_size, seed, self.max_bad, self.together)


class LlavaSamples:
    """The samples of a file that can be learnt from; `dropped` counts the others by reason.

    What a sample holds is read from the file whenever it is asked for; only places and lengths stay in memory.
    Raises FileNotFoundError for a missing file or folder, and ValueError when the file is not of this format
    or no sample is left.
    """

    def __init__(
        self, file: str | Path, images: str | Path, processor: Processor, max_length: int
    ) -> None:
        self.processor, self.max_length = processor, max_length
        self.source = open_source(file, images)
        index = index_of(self.source, processor)
        reasons = [
            index.fault(k) or ("too-long" if length > max_length else "")
            for k, length in enumerate(index.lengths.tolist())
        ]
        if "bad-json" in reasons:
            self.source.read(reasons.index("bad-json"))  # raises, and says where
        self.dropped = Counter(filter(None, reasons))
        self.numbers = [k for k, reason in enumerate(reasons) if not reason]
        self.lengths = index.lengths[self.numbers].tolist()
        self.has_picture = (index.pictures[self.numbers] > 0).tolist()
        self._report(Path(file))

    def sample(self, k: int) -> Sample:
        number = self.numbers[k]
        place = self.source.place(number)
        try:
            conversation = parse(self.source.read(number))
            place = f"sample {conversation.id} ({place})"
            ids, labels = self.processor.training_ids(conversation.turns)
            pictures = [picture_of(self.source, number, name) for name in conversation.pictures]
        except BadSampleError as error:
            raise BadSampleError(error.reason, f"{place}: {error.detail}") from None
        except Exception as error:
            raise RuntimeError(f"{place}: {type(error).__name__}: {error}") from error
        return Sample(conversation.id or self.source.place(number), ids, labels, pictures)

    def _report(self, file: Path) -> None:
        kept, dropped = len(self.numbers), self.dropped.total()
        if not kept:
            raise ValueError(f"{file} holds no sample to learn from: {self._reasons()}")
        log.info("%s: %d samples", file, kept)
        if dropped:
            log.warning(
                "%s: %d of %d samples left out: %s",
                file, dropped, kept + dropped, self._reasons(),
            )  # fmt: skip

    def _reasons(self) -> str:
        texts = FAULTS | {"too-long": f"longer than {self.max_length} tokens"}
        return "; ".join(f"{texts[reason]}: {n}" for reason, n in sorted(self.dropped.items()))
