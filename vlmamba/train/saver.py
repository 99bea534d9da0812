"""Writing checkpoints while training goes on: copied to the host, written by a thread, one at a time.

Every process writes the tensors that fall to it into files of its own in one directory, which all of them must see.
When each has said that its files are on the disk, the first process adds the manifest and renames the directory; until
then the checkpoint does not exist.
"""

import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vlmamba.train import checkpoint
from vlmamba.train.parallel import Whole
from vlmamba.train.ranks import Ranks


@dataclass(frozen=True)
class _Pending:
    path: Path
    aside: Path
    manifest: Mapping[str, Any]
    digests: Future[dict[str, str]]


class Saver:
    """Checkpoints of one stage in `directory`, of which the newest `keep` stay.

    All methods but `busy` are called by every process at the same point.
    """

    def __init__(self, directory: Path, ranks: Ranks, keep: int) -> None:
        self.directory, self.ranks, self.keep = directory, ranks, keep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: _Pending | None = None

    @property
    def busy(self) -> bool:
        """Whether this process is still writing."""
        return self._pending is not None and not self._pending.digests.done()

    def begin(
        self, step: int, kinds: Mapping[str, Mapping[str, Tensor]], manifest: Mapping[str, Any]
    ) -> None:
        """Starts to write `kinds`, this process's tensors on the host; what was being written is finished first."""
        self.finish()
        path = self.directory / f"step-{step:08d}"
        aside = self.directory / f"{checkpoint.PARTIAL}{path.name}"
        with self.ranks.together():
            if self.ranks.first:
                self.directory.mkdir(parents=True, exist_ok=True)
                for left in self.directory.glob(
                    f"{checkpoint.PARTIAL}*"
                ):  # of a run that was killed
                    shutil.rmtree(left, ignore_errors=True)
                aside.mkdir()
        files = {
            f"{kind}-{self.ranks.rank:05d}.safetensors": dict(tensors)
            for kind, tensors in kinds.items()
        }
        self._pending = _Pending(path, aside, manifest, self._pool.submit(_write, aside, files))

    def finish(self) -> None:
        """Waits until every process has written, and puts the checkpoint in its place.

        Raises OSError when a disk is full or not writable; the checkpoints that were there stay as they were.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            with self.ranks.together():
                mine = pending.digests.result()
            every = self.ranks.gather(mine)
            with self.ranks.together():
                if self.ranks.first:
                    digests = {name: digest for part in every for name, digest in part.items()}
                    checkpoint.write_manifest(pending.aside, pending.manifest, digests)
                    checkpoint.put_in_place(pending.aside, pending.path, self.keep)
        except BaseException:
            if self.ranks.first:
                shutil.rmtree(pending.aside, ignore_errors=True)
            raise

    def close(self) -> None:
        """Ends the thread, after what it is writing."""
        self._pool.shutdown()


def share_on_host(tensors: Iterable[tuple[str, Tensor]], shared: Whole) -> dict[str, Tensor]:
    """Of named tensors, those that fall to this process, whole and copied to the host."""
    mine, ranks = {}, shared.ranks
    for number, (name, tensor) in enumerate(tensors):
        whole = shared.whole(tensor.detach())
        if number % ranks.world == ranks.rank:
            mine[name] = whole.to("cpu", copy=True).contiguous()
    return mine


def _write(aside: Path, files: Mapping[str, dict[str, Tensor]]) -> dict[str, str]:
    """Writes and flushes the files; returns their SHA-256."""
    digests = {}
    for name, tensors in files.items():
        save_file(tensors, aside / name)
        checkpoint.flush(aside / name)
        digests[name] = checkpoint.sha256(aside / name)
    return digests
