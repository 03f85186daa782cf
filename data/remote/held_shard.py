"""One shard's file on this machine, of which some samples are there and the others are holes.

Beside it lies `<shard>.held`: what the remote shard was when this began, where its samples lie, and
a count for each. A count goes up by one whenever its sample comes or goes; odd means that it is
there. Several processes share the files. Who has copied a sample looks at its count once more: if
that is as before, nobody has made a hole there meanwhile, and there is no lock to wait for.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.plain_json import parse_json
from data.system.array_files import give_space_back, write_all
from data.system.atomic_files import write_atomically

_SUFFIX = ".held"
_HEAD_BYTES = 512


def held_path(shard: Path) -> Path:
    """Return the file that says what of a shard is there."""
    return shard.with_name(shard.name + _SUFFIX)


def shards_below(folder: Path) -> Iterator[Path]:
    """Yield all shards below a folder of which something is known to be held elsewhere, too."""
    for path in sorted(folder.rglob(f"*{_SUFFIX}")):
        yield path.with_name(path.name.removesuffix(_SUFFIX))


def describe_shard(
    shard: Path, tag: str, offsets: NDArray[Any], sample_bytes: int, *, whole: bool
) -> None:
    """Write what is known of a shard: its remote tag, byte offsets int64 [n], all held or none."""
    head = json.dumps(
        {"tag": tag, "sample_bytes": sample_bytes, "num_samples": len(offsets), "boot": _boot()}
    )
    counts = np.full(len(offsets), int(whole), dtype="<u4")
    content = head.encode().ljust(_HEAD_BYTES) + offsets.astype("<i8").tobytes() + counts.tobytes()
    write_atomically(held_path(shard), content)


def tag_of(shard: Path) -> str | None:
    """Return which remote content a shard is of; None if it is nobody's but ours, or not there."""
    try:
        with held_path(shard).open("rb") as file:
            head = parse_json(file.read(_HEAD_BYTES))
        return str(head["tag"]) if shard.exists() else None
    except (OSError, ValueError, KeyError):
        return None


def _boot() -> str:
    """Return what names the time since the machine was started; empty where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class HeldShard:
    """A shard and what is known of it; no file stays open, as a level may have very many.

    Raises OSError if there is none.
    """

    def __init__(self, shard: Path) -> None:
        self.path = shard
        with held_path(shard).open("rb") as file:
            head = parse_json(file.read(_HEAD_BYTES))
        num_samples = int(head["num_samples"])
        self.sample_bytes = int(head["sample_bytes"])
        self.is_settled = head["boot"] == _boot()
        """Whether what was written is there: after a power cut a count may be, and no sample."""
        self._counts_at = _HEAD_BYTES + 8 * num_samples
        known = held_path(shard)
        shared = np.memmap(known, dtype=np.uint8, mode="r")
        self.offsets: NDArray[Any] = np.array(shared[_HEAD_BYTES : self._counts_at]).view("<i8")
        self.counts: NDArray[Any] = shared[self._counts_at :].view("<u4")
        """How often each sample came or went, uint32 [n]: odd if it is there."""

    def store(self, row: int, parts: Sequence[memoryview]) -> None:
        """Write a sample, unless somebody else has meanwhile."""
        with self._alone() as (held, content):
            if self.counts[row] & 1:
                return
            place = int(self.offsets[row])
            for part in parts:
                write_all(content, part, place)
                place += part.nbytes
            self._count(held, row)

    def content(self, row: int) -> bytes:
        """Return what lies in a sample's place."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), self.sample_bytes, int(self.offsets[row]))

    def drop(self, row: int) -> int:
        """Make a hole of a sample, if it is there; return how many bytes that gives back."""
        with self._alone() as (held, content):
            if not self.counts[row] & 1:
                return 0
            self._count(held, row)  # first: who copies it now must see that it went
            give_space_back(content, int(self.offsets[row]), self.sample_bytes)
            return self.sample_bytes

    def rows_there(self) -> list[int]:
        """Return which samples are there now."""
        found: list[int] = np.flatnonzero(self.counts & 1).tolist()
        return found

    def used_now(self) -> None:
        """Note that somebody has opened it: what was opened longest ago goes first."""
        os.utime(held_path(self.path))

    def _count(self, held: int, row: int) -> None:
        count = (self.counts[row] + np.uint32(1)).astype("<u4").tobytes()
        os.pwrite(held, count, self._counts_at + 4 * row)  # whoever has it mapped sees it

    @contextmanager
    def _alone(self) -> Iterator[tuple[int, int]]:
        """Be the only one, of all threads and processes, that changes what is there.

        Yields the open files of what is known of the shard, and of the shard.
        """
        held = os.open(held_path(self.path), os.O_RDWR)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            content = os.open(self.path, os.O_RDWR)
            try:
                yield held, content
            finally:
                os.close(content)
        finally:
            os.close(held)
