"""Conversations in LLaVA's format: one JSON list, or JSON lines, of samples that name their pictures.

The rules are those of haotian-liu/LLaVA (llava/train/train.py): unknown keys are ignored; of a sample with a
picture every `<image>` mark is taken out of the turn it stands in and the picture put before the words; of a
sample without, the mark is text. A first turn that is not the human's is dropped. What LLaVA stops at or
learns wrongly from, a bad sample, is left out here, counted by reason, and said.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vlmamba.data.grouping import Grouped
from vlmamba.data.packing import Packed
from vlmamba.data.samples import BadSampleError, Sample
from vlmamba.pictures import PictureError, open_picture
from vlmamba.processing import Processor
from vlmamba.template import IMAGE_TOKEN, Role, Turn

log = logging.getLogger("vlmamba")
_ROLES: dict[str, Role] = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class LlavaData:
    """Where the samples are, and whether to pack them or to group them by length."""

    file: str  # .json: a list; .jsonl: one sample a line
    images: str  # the folder that the samples' picture paths start from
    packed: bool = True
    max_bad: float = 0.005  # share of samples that may be unreadable before training stops

    def batches(
        self, processor: Processor, batch_size: int, max_length: int, seed: int
    ) -> Packed | Grouped:
        samples = LlavaSamples(self.file, self.images, processor, max_length)
        if self.packed:
            return Packed(samples, batch_size, max_length, seed, self.max_bad)
        return Grouped(samples, samples.has_picture, batch_size, seed, self.max_bad)


@dataclass(frozen=True)
class Record:
    """One sample as its file gives it: name, paths of its pictures, turns."""

    name: str
    pictures: tuple[str, ...]
    turns: tuple[Turn, ...]


class LlavaSamples:
    """The samples of a file that can be learnt from; `dropped` counts the others by reason.

    Raises FileNotFoundError for a missing file or folder, and ValueError when the file is not of this format
    or no sample is left.
    """

    def __init__(
        self, file: str | Path, images: str | Path, processor: Processor, max_length: int
    ) -> None:
        self.processor, self.root = processor, Path(images)
        if not self.root.is_dir():
            raise FileNotFoundError(f"{images}: no such folder of pictures")
        self.dropped: Counter[str] = Counter()
        self.records: list[Record] = []
        self.lengths: list[int] = []
        for data in read_records(Path(file)):
            try:
                conversation = parse(data)
                length = self._length(conversation, max_length)
            except BadSampleError as error:
                self.dropped[str(error)] += 1
                continue
            self.records.append(conversation)
            self.lengths.append(length)
        self._report(Path(file))

    @property
    def has_picture(self) -> list[bool]:
        return [bool(conversation.pictures) for conversation in self.records]

    def sample(self, k: int) -> Sample:
        conversation = self.records[k]
        ids, labels = self.processor.training_ids(conversation.turns)
        try:
            pictures = [open_picture(self.root / path) for path in conversation.pictures]
        except PictureError as error:
            raise BadSampleError(f"sample {conversation.name}: {error}") from None
        return Sample(conversation.name, ids, labels, pictures)

    def _length(self, conversation: Record, max_length: int) -> int:
        """Tokens of a conversation. Never cut: a sample without its pictures' or answer's end teaches wrong."""
        try:
            ids, _ = self.processor.training_ids(conversation.turns)
        except ValueError as error:
            raise BadSampleError(str(error)) from None
        if len(ids) > max_length:
            raise BadSampleError(f"longer than {max_length} tokens")
        return len(ids)

    def _report(self, file: Path) -> None:
        kept, dropped = len(self.records), self.dropped.total()
        if not kept:
            raise ValueError(f"{file} holds no sample to learn from: {_counts(self.dropped)}")
        log.info("%s: %d samples", file, kept)
        if dropped:
            log.warning(
                "%s: %d of %d samples left out: %s",
                file,
                dropped,
                kept + dropped,
                _counts(self.dropped),
            )


def read_records(file: Path) -> Iterator[Any]:
    """The samples of a JSON list or of JSON lines; raises ValueError naming the line that is not JSON."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such data file")
    if file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _from_json(line, f"{file}:{number}")
        return
    records = _from_json(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(records, list):
        raise ValueError(f"{file} holds no list of samples: name JSON lines .jsonl")
    yield from records


def parse(data: Any) -> Record:
    """A sample of the file as a conversation; raises BadSampleError with a reason that many samples can share."""
    if not isinstance(data, dict) or not isinstance(data.get("conversations"), list):
        raise BadSampleError("no list of conversations")
    pictures = data.get("image") or ()
    pictures = (pictures,) if isinstance(pictures, str) else tuple(pictures)
    for path in pictures:
        if not isinstance(path, str) or not _stays_inside(path):
            raise BadSampleError("a picture's path leaves the folder of pictures")
    turns = [_turn(turn, bool(pictures)) for turn in data["conversations"]]
    if turns and turns[0].role != "user":
        turns = turns[1:]
    if turns and turns[-1].role == "user":  # nothing answers it
        turns = turns[:-1]
    if any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        raise BadSampleError("roles do not alternate")
    if not turns:
        raise BadSampleError("no answer to learn")
    if len(pictures) == 1:  # several marks in a turn are one
        turns = [replace(turn, num_pictures=min(turn.num_pictures, 1)) for turn in turns]
    if len(pictures) != sum(turn.num_pictures for turn in turns):
        raise BadSampleError("the number of <image> marks is not that of the pictures")
    return Record(str(data.get("id", "")) or "unnamed", pictures, tuple(turns))


def _turn(data: Any, has_pictures: bool) -> Turn:
    if not isinstance(data, dict) or not isinstance(data.get("value"), str):
        raise BadSampleError("a turn without a value")
    role = _ROLES.get(data.get("from", ""))
    if role is None:
        raise BadSampleError("a turn that is neither from human nor from gpt")
    text = data["value"]
    if not has_pictures or IMAGE_TOKEN not in text:
        return Turn(role, text)
    if role == "assistant":
        raise BadSampleError("an <image> mark in an answer")
    return Turn(role, text.replace(IMAGE_TOKEN, "").strip(), text.count(IMAGE_TOKEN))


def _stays_inside(path: str) -> bool:
    parts = PurePosixPath(path.replace("\\", "/"))
    return not parts.is_absolute() and ".." not in parts.parts and ":" not in parts.parts[0]


def _from_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None


def _counts(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))
