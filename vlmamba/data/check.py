"""A whole data set looked through before training: every sample read and measured, every picture decoded."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from vlmamba.data.faults import FAULTS, BadSampleError
from vlmamba.data.index import Reading, readings, sample_id
from vlmamba.data.processes import available_cores, spread
from vlmamba.data.sources import Source, picture_of
from vlmamba.meter import Meter
from vlmamba.processing import Processor

EXAMPLES = 10  # kept of each fault
_PIECE = 32  # pictures of one piece of work
_WORTH_A_PROCESS = 8  # pieces, as a process takes seconds to start


@dataclass
class Fault:
    """One kind of fault: how many samples have it, of how many pictures it is, and where it was first met."""

    samples: int = 0
    pictures: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)  # place, id, detail


@dataclass
class Report:
    """What was found. `bad` counts samples with any fault but an allowed one; lengths and pictures are of samples
    that could be read. Not `complete` when it was stopped."""

    samples: int = 0
    bad: int = 0
    different_pictures: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    pictures: Counter[int] = field(default_factory=Counter)
    complete: bool = False

    @property
    def bad_share(self) -> float:
        return self.bad / self.samples if self.samples else 0.0


def check(
    source: Source,
    processor: Processor,
    max_length: int,
    *,
    allowed: Sequence[str] = (),
    processes: int = 0,
    quiet: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Report:
    """Reads all samples, then decodes each picture once, in processes (0: one a core).

    allowed: faults that are reported, but make no sample bad. `stopped` is asked now and then, and ends the check
    with the report so far.
    """
    unknown = set(allowed) - set(FAULTS)
    if unknown:
        raise ValueError(f"there is no fault {min(unknown)!r}: use one of {', '.join(FAULTS)}")
    work = _Check(source, processor, max_length, set(allowed), processes or available_cores())
    work.report.complete = work.read(quiet, stopped) and work.look(quiet, stopped)
    work.report.bad = len(work.bad)
    return work.report


class _Check:
    """A check under way. `shown` has the samples of every picture, `bad` the samples with a fault that counts."""

    def __init__(
        self,
        source: Source,
        processor: Processor,
        max_length: int,
        allowed: set[str],
        processes: int,
    ) -> None:
        self.source, self.processor, self.max_length = source, processor, max_length
        self.allowed, self.processes = allowed, processes
        self.report = Report()
        self.ids: dict[str, int] = {}
        self.shown: dict[str, list[int]] = {}
        self.bad: set[int] = set()

    def read(self, quiet: bool, stopped: Callable[[], bool]) -> bool:
        """Reads every sample; false when it was stopped."""
        count = len(self.source)
        supply = readings(self.source, self.processor, min(self.processes, 1 + count // 4096))
        with Meter("samples", 0, count, quiet, "read") as meter, closing(supply):
            for piece in supply:
                if stopped():
                    return False
                for reading in piece:
                    self.add(self.report.samples, reading)
                    self.report.samples += 1
                meter.advance(len(piece))
        return True

    def add(self, k: int, reading: Reading) -> None:
        report = self.report
        if reading.id:
            first = self.ids.setdefault(reading.id, k)
            if first != k:
                where = f"first at {self.source.place(first)}"
                self.blame([k], BadSampleError("duplicate-id", where), reading.id)
        if reading.fault is not None:
            self.blame([k], reading.fault, reading.id)
            return
        report.lengths.append(reading.length)
        report.pictures[len(reading.pictures)] += 1
        if reading.length > self.max_length:
            fault = BadSampleError("too-long", f"{reading.length:,} of {self.max_length:,}")
            self.blame([k], fault, reading.id)
        for name in reading.pictures:
            self.shown.setdefault(name, []).append(k)

    def look(self, quiet: bool, stopped: Callable[[], bool]) -> bool:
        """Decodes every picture; false when it was stopped."""
        wanted = [(numbers[0], name) for name, numbers in self.shown.items()]
        pieces = [wanted[k : k + _PIECE] for k in range(0, len(wanted), _PIECE)]
        supply = spread(
            _Looker(self.source), pieces, min(self.processes, 1 + len(pieces) // _WORTH_A_PROCESS)
        )
        with Meter("pictures", 0, len(wanted), quiet, "decoded") as meter, closing(supply):
            for piece, faults in zip(pieces, supply, strict=True):
                if stopped():
                    return False
                for (_, name), fault in zip(piece, faults, strict=True):
                    self.report.different_pictures += 1
                    if fault is not None:
                        self.blame(self.shown[name], fault, pictures=1)
                meter.advance(len(piece))
        return True

    def blame(
        self,
        numbers: Sequence[int],
        fault: BadSampleError,
        id_: str | None = None,
        pictures: int = 0,
    ) -> None:
        """Counts a fault that the samples of those numbers share; `id_` is the first one's, if it is at hand."""
        found = self.report.faults.setdefault(fault.reason, Fault())
        found.samples += len(set(numbers))
        found.pictures += pictures
        if fault.reason not in self.allowed:
            self.bad.update(numbers)
        if len(found.examples) < EXAMPLES:
            first = numbers[0]
            id_ = sample_id(self.source.read(first)) if id_ is None else id_
            example = {"place": self.source.place(first), "id": id_, "detail": fault.detail}
            found.examples.append(example)


class _Looker:
    """Decodes pictures, each given with a sample that shows it; of a good one there is nothing to say."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(self, piece: Sequence[tuple[int, str]]) -> list[BadSampleError | None]:
        return [self.look(k, name) for k, name in piece]

    def look(self, k: int, name: str) -> BadSampleError | None:
        try:
            picture_of(self.source, k, name)
        except BadSampleError as fault:
            return fault
        return None
