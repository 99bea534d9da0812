"""A training mixture that lives on the training device: pictures as uint8, dialogues as token ids.

A short GPU run cannot wait for pictures to be decoded, so every picture is decoded once, and a step only
indexes, augments and stacks. `batch(step)` is a pure function of the seed and the step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from vlmamba.data.augment import DRAWS, Policies, Policy, view
from vlmamba.data.batches import Batch
from vlmamba.data.census import OUTSIDE, SLOTS
from vlmamba.data.dialogues import Dialogue
from vlmamba.data.lettering import LETTERING_DRAWS, lettering
from vlmamba.data.made import in_pieces
from vlmamba.data.patch_classes import UNKNOWN, letters_at
from vlmamba.data.words import LONGEST
from vlmamba.processing import IGNORE_INDEX, Processor, Turn


@dataclass(frozen=True, eq=False)
class Source:
    """One kind of picture, and what is said about it.

    pixels (n, s, s, 3) uint8; `dialogues[j]` is about picture `picture[j]`; policy: how its views differ;
    share: its part of a batch. `classes` (n,), where given, are class indices out of `num_classes`; `letters`
    (n, characters) spell the word that a picture shows, as a letter head reads it. Where `aspects` (n,) are given,
    pixels (n, h, w) are masks of words, each of that width by its height, `edges` (n, characters + 1) say where its
    letters begin and end, and `policy` is not used. `patches` (n, g, g), where given, say what parts of the picture
    show, in `patch_classes`; `census` (n, g, g, SLOTS), where given, counts what is in them, and is used where patches
    are those of the model.
    """

    name: str
    pixels: NDArray[np.uint8]
    picture: NDArray[np.int64]
    dialogues: Sequence[Dialogue]
    policy: Policy
    share: float
    classes: NDArray[np.int64] | None = None
    num_classes: int = 0
    letters: NDArray[np.int64] | None = None
    aspects: NDArray[np.float32] | None = None
    edges: NDArray[np.float32] | None = None
    patches: NDArray[np.int64] | None = None
    census: NDArray[np.int8] | None = None


@dataclass(frozen=True)
class Rows:
    """Dialogues as tokens: input_ids and labels (n, l), right-padded, and which dialogues these are (n,)."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    kept: NDArray[np.int64]


@dataclass
class MixtureBatch(Batch):
    """A batch of pictures, source by source: `counts` says how many consecutive samples each source gave.

    `classes` (b,): the class of each picture in its source, -1 where it has none; `letters` (b, characters): the
    word that it shows, -1 where it shows none; `patches` (b, p): what its patches show, -1 where nobody has told;
    `census` (b, p, SLOTS): what is counted in them, OUTSIDE where nothing is;
    `draws` (b, BLENDING): random numbers for what is done to it next.
    """

    classes: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    letters: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    patches: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    census: Tensor = field(default_factory=lambda: torch.empty(0, 0, 0, dtype=torch.int8))
    draws: Tensor = field(default_factory=lambda: torch.empty(0))
    counts: dict[str, int] = field(default_factory=dict)


PIECE = 2048  # dialogues that a process encodes at a time
BLENDING = 6  # uniform numbers of a picture in `MixtureBatch.draws`


class Mixture:
    """Batches with a fixed share of every source, each source shuffled anew in every pass over it.

    Sources with classes come first and words last. The length is that of the longest pass: the steps in which
    every dialogue was seen at least once.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        processor: Processor,
        batch_size: int,
        image_size: int,
        seed: int,
        max_text_tokens: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        sources = sorted(sources, key=lambda s: (not s.num_classes, s.aspects is not None))
        total = sum(source.share for source in sources)
        self.counts = {s.name: max(1, round(batch_size * s.share / total)) for s in sources}
        self.num_classes = {
            s.name: s.num_classes for s in sorted(sources, key=lambda s: s.name) if s.num_classes
        }
        self.image_size, self.seed = image_size, seed
        self.grid = math.isqrt(processor.num_patches)
        self.device = torch.device(device)
        self.sources = [
            _OnDevice(
                source,
                _encoded(source, processor, max_text_tokens),
                seed,
                image_size,
                self.grid,
                self.device,
            )
            for source in sources
        ]
        seen = [(s.policy, self.counts[s.name]) for s in sources if s.aspects is None]
        self.policies = Policies(seen, self.device)
        length = max(s.input_ids.shape[1] for s in self.sources)
        for source in self.sources:
            source.widen(length, processor.pad_token_id)

    def __len__(self) -> int:
        return max(len(s.picture) // self.counts[s.name] for s in self.sources)

    def batch(self, index: int) -> MixtureBatch:
        """The batch of a step, a pure function of the index."""
        generator = Generator(self.device).manual_seed(self.seed * 1_000_003 + index)
        rows = [s.order.rows(index, self.counts[s.name]) for s in self.sources]
        pictures = [s.picture[r] for s, r in zip(self.sources, rows, strict=True)]
        size = self.image_size
        noise = torch.randn(3, size, size, generator=generator, device=self.device)
        chosen = list(zip(self.sources, pictures, strict=True))
        views = []
        pixels = [s.pixels[p] for s, p in chosen if s.aspects is None]
        if pixels:
            pixels = torch.cat(pixels)
            draws = torch.rand(len(pixels), DRAWS, generator=generator, device=self.device)
            views.append(view(pixels, draws, noise, self.policies))
        shown = [s.patches[p] for s, p in chosen if s.aspects is None]
        for source, p in chosen:
            if source.aspects is not None:
                seen, letters = self._words(source, p, noise, generator)
                views.append(seen)
                shown.append(letters)
        b = sum(map(len, pictures))
        return MixtureBatch(
            torch.cat([s.input_ids[r] for s, r in zip(self.sources, rows, strict=True)]),
            torch.cat([s.labels[r] for s, r in zip(self.sources, rows, strict=True)]),
            torch.cat([part.to(views[0].dtype) for part in views]),
            classes=torch.cat([s.classes[p] for s, p in chosen]),
            letters=torch.cat([s.letters[p] for s, p in chosen]),
            patches=torch.cat(shown),
            census=torch.cat([s.census[p] for s, p in chosen]),
            draws=torch.rand(b, BLENDING, generator=generator, device=self.device),
            counts=self.counts,
        )

    def _words(
        self, source: "_OnDevice", pictures: Tensor, noise: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Words on grounds that come from the first source of pictures, and the letters of their patches."""
        photos, b = self.sources[0].pixels, len(pictures)
        draws = torch.rand(b, LETTERING_DRAWS + 1, generator=generator, device=self.device)
        at = (draws[:, -1] * len(photos)).long()
        assert source.aspects is not None
        assert source.edges is not None
        seen, x, y = lettering(
            source.pixels[pictures], source.aspects[pictures], photos[at], draws[:, :-1], noise
        )
        side = self.image_size // self.grid
        x, y = (places[:, side // 2 :: side, side // 2 :: side].flatten(1) for places in (x, y))
        letters = letters_at(x, y, source.edges[pictures], source.letters[pictures])
        return seen.mul_(2).sub_(1), letters


class Texts:
    """Batches of dialogues without pictures, for a language model alone; shuffled anew in every pass."""

    def __init__(
        self,
        dialogues: Sequence[Dialogue],
        processor: Processor,
        batch_size: int,
        seed: int,
        max_text_tokens: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        rows = encode(dialogues, processor, 0, max_text_tokens)
        self.input_ids = torch.from_numpy(rows.input_ids).to(device).long()
        self.labels = torch.from_numpy(rows.labels).to(device).long()
        self.order = _Order(len(rows.kept), seed, torch.device(device))
        self.batch_size = batch_size

    def __len__(self) -> int:
        return max(1, len(self.input_ids) // self.batch_size)

    def batch(self, index: int) -> Batch:
        rows = self.order.rows(index, self.batch_size)
        return Batch(self.input_ids[rows], self.labels[rows])


def encode(
    dialogues: Sequence[Dialogue], processor: Processor, pictures: int, max_text_tokens: int
) -> Rows:
    """Ids and labels of dialogues about `pictures` pictures each; turns past `max_text_tokens` are left out, and
    dialogues of which no turn fits. Raises ValueError when none is left."""
    limit = pictures * processor.num_patches + max_text_tokens
    encoding = _Encoding(processor, pictures, limit)
    parts = in_pieces(encoding, dialogues, PIECE)
    length = max(part.input_ids.shape[1] for part in parts)
    found = Rows(
        np.concatenate([_widened(p.input_ids, length, processor.pad_token_id) for p in parts]),
        np.concatenate([_widened(p.labels, length, IGNORE_INDEX) for p in parts]),
        np.concatenate([p.kept + PIECE * number for number, p in enumerate(parts)]),
    )
    if not len(found.kept):
        raise ValueError(f"no turn fits into {max_text_tokens} tokens, such as {dialogues[0]!r}")
    return found


def _widened(rows: NDArray[np.int32], length: int, by: int) -> NDArray[np.int32]:
    return np.pad(rows, ((0, 0), (0, length - rows.shape[1])), constant_values=by)


@dataclass(frozen=True)
class _Encoding:
    """Dialogues as rows: of each as many turns as fit, or one that does. A class, since processes need names."""

    processor: Processor
    pictures: int
    limit: int

    def __call__(self, dialogues: Sequence[Dialogue]) -> Rows:
        encoded = [self.encoded(dialogue) for dialogue in dialogues]
        kept = np.array([row for row, (ids, _) in enumerate(encoded) if ids], np.int64)
        length = max(len(ids) for ids, _ in encoded)
        input_ids = np.full((len(kept), length), self.processor.pad_token_id, np.int32)
        labels = np.full((len(kept), length), IGNORE_INDEX, np.int32)
        for row, number in enumerate(kept):
            ids, wanted = encoded[number]
            input_ids[row, : len(ids)] = ids
            labels[row, : len(ids)] = wanted
        return Rows(input_ids, labels, kept)

    def encoded(self, dialogue: Dialogue) -> tuple[list[int], list[int]]:
        """Ids and labels of one dialogue; none where no turn fits."""
        shorter = [dialogue[:keep] for keep in range(len(dialogue), 0, -1)]
        for chosen in [*shorter, *([turn] for turn in dialogue[1:])]:
            turns = []
            for number, (question, answer) in enumerate(chosen):
                pictures = self.pictures if number == 0 else 0
                turns += [Turn("user", question, pictures), Turn("assistant", answer)]
            ids, labels = self.processor.training_ids(turns)
            if len(ids) <= self.limit:
                return ids, labels
        return [], []


class _Order:
    """The rows of each step: a new permutation in every pass, the same for the same seed."""

    def __init__(self, count: int, seed: int, device: torch.device) -> None:
        self.count, self.seed, self.device = count, seed, device
        self._pass, self._permutation = -1, torch.empty(0)

    def rows(self, step: int, size: int) -> Tensor:
        """`size` rows; those that do not fill the last batch of a pass wait for the next pass."""
        number, place = divmod(step, max(1, self.count // size))
        if number != self._pass:
            shuffle = Generator().manual_seed(self.seed * 1_000_003 + number)
            permutation = torch.randperm(self.count, generator=shuffle)
            self._pass, self._permutation = number, permutation.to(self.device)
        rows = self._permutation[place * size : (place + 1) * size]
        return rows if len(rows) == size else rows.repeat(-(-size // len(rows)))[:size]


class _OnDevice:
    """A source's tensors on the device; pictures smaller than the views are enlarged once, as the processor does."""

    def __init__(
        self, source: Source, rows: Rows, seed: int, size: int, grid: int, device: torch.device
    ) -> None:
        self.name, self.policy, self.num_classes = source.name, source.policy, source.num_classes
        n = len(source.pixels)
        self.pixels = _uploaded(source, size, device)
        self.picture = torch.from_numpy(source.picture[rows.kept]).to(device)
        self.input_ids = torch.from_numpy(rows.input_ids).to(device).long()
        self.labels = torch.from_numpy(rows.labels).to(device).long()
        classes = source.classes if source.classes is not None else np.full(n, -1)
        self.classes = torch.from_numpy(classes).to(device).long()
        letters = source.letters if source.letters is not None else np.full((n, LONGEST), -1)
        self.letters = torch.from_numpy(letters).to(device).long()
        self.aspects, self.edges = (
            None if given is None else torch.from_numpy(given).to(device)
            for given in (source.aspects, source.edges)
        )
        self.patches = torch.full((n, grid * grid), UNKNOWN, device=device)
        if source.patches is not None:
            told = torch.from_numpy(source.patches).to(device)
            scaled = F.interpolate(told[:, None].float(), (grid, grid), mode="nearest")
            self.patches = scaled.flatten(1).long()
        self.census = torch.full((1, grid * grid, SLOTS), OUTSIDE, dtype=torch.int8, device=device)
        self.census = self.census.expand(n, -1, -1)
        if source.census is not None and source.census.shape[1] == grid:
            self.census = torch.from_numpy(source.census).to(device).flatten(1, 2)
        self.order = _Order(len(rows.kept), seed, device)

    def widen(self, length: int, pad: int) -> None:
        """All sources' rows in one length, so that they can be stacked."""
        missing = length - self.input_ids.shape[1]
        self.input_ids = F.pad(self.input_ids, (0, missing), value=pad)
        self.labels = F.pad(self.labels, (0, missing), value=IGNORE_INDEX)


def _uploaded(source: Source, size: int, device: torch.device) -> Tensor:
    """The pictures on the device, (n, size, size, 3) uint8; masks of words as they are. Kept for the next stage."""
    key = (id(source.pixels), size, device)
    if key not in _UPLOADED:
        pixels = torch.from_numpy(source.pixels)
        if source.aspects is not None or pixels.shape[1] == size:
            _UPLOADED[key] = source.pixels, pixels.to(device)
        else:
            large = torch.empty(len(pixels), size, size, 3, dtype=torch.uint8, device=device)
            for part, into in zip(pixels.split(4096), large.split(4096), strict=True):
                planes = part.to(device).permute(0, 3, 1, 2).float()
                planes = F.interpolate(planes, (size, size), mode="bicubic", antialias=True)
                into.copy_(planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1))
            _UPLOADED[key] = source.pixels, large
    return _UPLOADED[key][1]


# The next stage of a run asks for the same pictures: by the identity of their array, which is kept alive with them.
_UPLOADED: dict[tuple[int, int, torch.device], tuple[NDArray[np.uint8], Tensor]] = {}
_ENCODED: dict[tuple[int, int, int], tuple[Sequence[Dialogue], Rows]] = {}


def _encoded(source: Source, processor: Processor, max_text_tokens: int) -> Rows:
    """The dialogues of a source as rows; kept for the next stage, which speaks the same words."""
    words = hash((processor.tokenizer.to_str(), processor.template, processor.num_patches))
    key = (id(source.dialogues), words, max_text_tokens)
    if key not in _ENCODED:
        _ENCODED[key] = source.dialogues, encode(source.dialogues, processor, 1, max_text_tokens)
    return _ENCODED[key][1]
