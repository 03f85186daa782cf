"""commits.jsonl: one line per finished unit, appended and synced; also the writers' lock.

The first line names the plan, by the SHA-256 of manifest.json, so that damage there can be told.
A unit that was found damaged gets a second line that names its damaged levels; when it is mended, a
third, whole one. The last line about a unit counts. A line holds the samples' checksums, which say
what the stored bytes have to be.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash
from numpy.typing import NDArray

from configs.errors import CacheError
from configs.given_files import regular
from configs.plain_json import parse_json
from data.cache.channel_statistics import ChannelStatistics
from data.cache.manifest import Manifest
from data.cache.plan import units_of
from data.system.atomic_files import remove_leftovers
from data.system.locks import open_locked

log = logging.getLogger(__name__)

FILE_NAME = "commits.jsonl"
_BLOCK = 2**20
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, OverflowError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """A finished unit: per level, one XXH3-64 checksum per sample and the unit's statistics."""

    unit: int
    checksums: dict[int, list[str]]
    statistics: dict[int, ChannelStatistics]
    damaged: frozenset[int] = frozenset()
    """Levels at which the unit's samples were later found not to be what was committed."""

    def to_line(self) -> bytes:
        """Return the unit's line, newline included."""
        raw = {
            "unit": self.unit,
            "xxh3": {str(level): sums for level, sums in self.checksums.items()},
            "statistics": {str(k): v.to_json() for k, v in self.statistics.items()},
        }
        return _sealed(raw)

    @classmethod
    def from_json(cls, raw: dict[str, Any], *, statistics: bool = True) -> Commit:
        """Inverse of `to_line`, parsed; ValueError and its like if it is damaged."""
        parts = raw["statistics"] if statistics else {}
        checksums = {int(level): list(sums) for level, sums in raw["xxh3"].items()}
        for text in chain.from_iterable(checksums.values()):
            int(text, 16)
        return cls(
            unit=int(raw["unit"]),
            checksums=checksums,
            statistics={int(k): ChannelStatistics.from_json(v) for k, v in parts.items()},
        )


def read_commits(cache: Path, *, statistics: bool = True) -> dict[int, Commit]:
    """Return unit -> commit. A damaged line, or a last one cut short by a crash, is none.

    Without `statistics` the commits have none: of a cache of terabytes they are gigabytes.
    """
    return read_log(cache, statistics=statistics)[1]


def read_log(cache: Path, *, statistics: bool = True) -> tuple[str | None, dict[int, Commit]]:
    """Return the SHA-256 of the manifest that the commits are of, and `read_commits`.

    The first is None if no whole line says so.
    """
    path = cache / FILE_NAME
    plan: str | None = None
    commits: dict[int, Commit] = {}
    if not path.is_file():
        return plan, commits
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                raw = _unsealed(line[:-1])
                if "plan" in raw:
                    plan = plan or str(raw["plan"])
                    continue
                if "damaged" in raw:
                    commit = commits[int(raw["unit"])]
                    found = commit.damaged | frozenset(int(level) for level in raw["damaged"])
                    commit = replace(commit, damaged=found)
                else:
                    commit = Commit.from_json(raw, statistics=statistics)
            except (*_DAMAGED, CacheError) as error:
                log.warning("%s: line %d is damaged and does not count (%s)", path, number, error)
                continue
            commits[commit.unit] = commit
    return plan, commits


def fitting(commits: Mapping[int, Commit], manifest: Manifest) -> dict[int, Commit]:
    """Return the commits of the plan's units that say something of each sample at each level.

    What another plan's log says, or one that somebody wrote by hand, is as if it were not there.
    """
    channels = {level.index: level.num_channels for level in manifest.levels}
    found: dict[int, Commit] = {}
    for unit in units_of(manifest):
        commit = commits.get(unit.index)
        if (
            commit is not None
            and commit.checksums.keys() == channels.keys()
            and all(len(sums) == unit.num_rows for sums in commit.checksums.values())
            and all(channels.get(k) == len(v.mean) for k, v in commit.statistics.items())
        ):
            found[unit.index] = commit
    return found


def hash_log(cache: Path, *, with_plan: bool) -> str:
    """Return the XXH3-128 of the log's whole lines: another one, another content of the cache.

    Samples that were found damaged and mended change it, too, even if they are as they were. The
    line that names the manifest changes with paths in it, and is left out unless `with_plan`.
    """
    digest = xxhash.xxh3_128()
    with contextlib.suppress(FileNotFoundError), regular(cache / FILE_NAME).open("rb") as file:
        for line in file:
            is_whole = line.endswith(b"\n")
            if is_whole and (with_plan or not line.startswith(b'{"plan":')):
                digest.update(line)
    return digest.hexdigest()


def _sealed(raw: dict[str, Any]) -> bytes:
    """Return one line of JSON that ends with the checksum of what stands before it."""
    body = json.dumps(raw, separators=(",", ":"))[:-1].encode()
    return body + f',"line":"{xxhash.xxh3_64_hexdigest(body)}"}}\n'.encode()


def _unsealed(line: bytes) -> dict[str, Any]:
    """Inverse of `_sealed`, without its newline; ValueError if a byte was changed."""
    body, _, seal = line.rpartition(b',"line":"')
    if seal != xxhash.xxh3_64_hexdigest(body).encode() + b'"}':
        raise ValueError("its checksum differs")
    raw: dict[str, Any] = parse_json(body + b"}")
    return raw


class CommitLog:
    """The open log of the one process that writes a cache; the lock dies with the process."""

    def __init__(self, cache: Path) -> None:
        """Wait for the lock, then cut off a torn last line. Raises CacheError if not writable."""
        self._path = cache / FILE_NAME
        self._handle = open_locked(
            self._path,
            flags=os.O_APPEND,
            waiting=lambda: log.info(
                "%s: another extraction is writing here: waiting for it", cache
            ),
        )
        remove_leftovers(cache)
        size = os.fstat(self._handle).st_size
        whole = self._end_of_last_line(size)
        if whole != size:
            os.ftruncate(self._handle, whole)

    def _end_of_last_line(self, size: int) -> int:
        end = size
        while end > 0:
            start = max(0, end - _BLOCK)
            place = os.pread(self._handle, end - start, start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
        return 0

    def name_plan(self, manifest_sha256: str) -> None:
        """Note which manifest the commits are of."""
        self._append(_sealed({"plan": manifest_sha256}))

    def append(self, commit: Commit) -> None:
        """Add a unit's line and make it durable."""
        self._append(commit.to_line())

    def mark_damaged(self, damaged: Mapping[int, Iterable[int]]) -> None:
        """Note {unit: levels} that are not what was committed: the next extraction mends them."""
        lines = [
            _sealed({"unit": unit, "damaged": sorted(found)}) for unit, found in damaged.items()
        ]
        self._append(b"".join(lines))

    def _append(self, line: bytes) -> None:
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


def checksum(content: Any) -> int:
    """Return the XXH3-64 of a contiguous buffer."""
    return xxhash.xxh3_64_intdigest(content)


def expected_checksums(
    manifest: Manifest, commits: Mapping[int, Commit], level: int
) -> list[list[int | None]]:
    """Return per bucket and row the checksum that was committed; None where there is none."""
    expected: list[list[int | None]] = [[None] * b.num_samples for b in manifest.buckets]
    for unit in units_of(manifest):
        commit = commits.get(unit.index)
        if commit is not None and level in commit.checksums and level not in commit.damaged:
            sums = [int(text, 16) for text in commit.checksums[level]]
            expected[unit.bucket][unit.first_row : unit.first_row + unit.num_rows] = sums
    return expected


def differing_rows(
    memory: NDArray[Any], starts: Iterable[int], num_bytes: int, expected: Iterable[int | None]
) -> list[int]:
    """Return the positions of samples (uint8 `memory`, `num_bytes` from each start) that differ.

    A sample without an expected checksum is not looked at.
    """
    return [
        position
        for position, (start, wanted) in enumerate(zip(starts, expected, strict=True))
        if wanted is not None and checksum(memory[start : start + num_bytes].data) != wanted
    ]
