"""commits.jsonl: one line per finished unit, appended and synced; also the writers' lock."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from configs.errors import CacheError
from data.statistics import ChannelStatistics

log = logging.getLogger(__name__)

FILE_NAME = "commits.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """A finished unit: per level, one XXH3-64 checksum per sample and the unit's statistics."""

    unit: int
    checksums: dict[int, list[str]]
    statistics: dict[int, ChannelStatistics]

    def to_line(self) -> bytes:
        """Return the unit's line, newline included."""
        raw = {
            "unit": self.unit,
            "xxh3": {str(level): sums for level, sums in self.checksums.items()},
            "statistics": {str(k): v.to_json() for k, v in self.statistics.items()},
        }
        return json.dumps(raw, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Commit:
        """Inverse of `to_line`; raises ValueError, KeyError or TypeError if the line is damaged."""
        raw: dict[str, Any] = json.loads(line)
        return cls(
            unit=int(raw["unit"]),
            checksums={int(level): list(sums) for level, sums in raw["xxh3"].items()},
            statistics={
                int(k): ChannelStatistics.from_json(v) for k, v in raw["statistics"].items()
            },
        )


def read_commits(cache: Path) -> dict[int, Commit]:
    """Return unit -> commit. A last line cut short by a crash is none; others must be whole."""
    path = cache / FILE_NAME
    if not path.is_file():
        return {}
    commits: dict[int, Commit] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            commit = Commit.from_line(line)
        except (ValueError, KeyError, TypeError, CacheError) as error:
            raise CacheError(
                f"{path}: line {number} is damaged ({error}): run extract-features --overwrite"
            ) from error
        commits[commit.unit] = commit
    return commits


class CommitLog:
    """The open log of the one process that writes a cache; the lock dies with the process."""

    def __init__(self, cache: Path) -> None:
        """Wait for the lock, then cut off a torn last line. Raises CacheError if not writable."""
        self._path = cache / FILE_NAME
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another extraction is writing here: waiting for it", cache)
            fcntl.flock(self._handle, fcntl.LOCK_EX)
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.ftruncate(self._handle, whole)

    def append(self, commit: Commit) -> None:
        """Add a line and make it durable."""
        line = commit.to_line()
        start = os.fstat(self._handle).st_size
        try:
            if os.write(self._handle, line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, start)
            raise

    def clear(self) -> None:
        """Forget every commit (before the files they speak of are removed)."""
        os.ftruncate(self._handle, 0)
        os.fsync(self._handle)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._handle)

    def __enter__(self) -> CommitLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
