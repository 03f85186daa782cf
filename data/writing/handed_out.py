"""Units that another process writes: the one with the log hands them out, and commits them.

It alone lays out shards, gives full ones their names and appends to the log. Who has a unit writes
its samples to their places in the part files, and syncs them. Meanwhile it holds locks on these
places, from before the first sample is computed: a process that is believed dead, but is not, is
waited for, and never writes after the one that has its unit now. Network file systems send what
lies in a locked place and no more, so that neighbours in one page can be written by two machines.

Who does not see the files hands the bytes over to the one with the log (`handed_over`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cache.commit_log import Commit
from data.cache.manifest import Manifest
from data.cache.plan import Unit
from data.cache.units_due import OpenShard
from data.system.locks import lock_range
from data.system.threads import limit_cores
from data.writing.unit_writer import Map, Shard, UnitWriter


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitDue:
    """A unit to be written: to where, and what of it is there."""

    unit: Unit
    places: Mapping[int, tuple[str, Sequence[int]]]
    """{level that is due: (part file, byte offset of each of the unit's samples)}"""
    there: Mapping[int, Sequence[str]]
    """{level that is there: checksum of each of the unit's samples}"""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitDone:
    """What became of a unit: its samples are on the disk, except at levels that differ."""

    unit: int
    commit: Commit
    num_bytes: int
    differing: frozenset[int]
    """Levels that were there, but come out otherwise now, as on another GPU: not written."""


class DueUnits:
    """Writes what is due of units that were handed out, and compares what is there.

    `shard_of` says where the samples of (unit, level) go.
    """

    def __init__(
        self, manifest: Manifest, due: Iterable[UnitDue], shard_of: Callable[[int, int], Shard],
        pool: ThreadPoolExecutor,
    ) -> None:  # fmt: skip
        self._due = {each.unit.index: each for each in due}
        self._shard_of = shard_of
        self._differing: dict[int, set[int]] = {number: set() for number in self._due}
        self._num_bytes = dict.fromkeys(self._due, 0)
        self._writer = UnitWriter(manifest, self._shard_for, pool)

    def write(self, unit: Unit, maps: Mapping[int, Sequence[Map]]) -> UnitDone | None:
        """Store a unit's next rows, as `UnitWriter.write`; say what became of it once it is whole.

        Raises as that.
        """
        num_bytes, commit = self._writer.write(unit, maps)
        self._num_bytes[unit.index] += num_bytes
        if commit is None:
            return None
        return UnitDone(
            unit=unit.index, commit=commit, num_bytes=self._num_bytes[unit.index],
            differing=frozenset(self._differing[unit.index]),
        )  # fmt: skip

    def _shard_for(self, unit: Unit, level: int, row: int, checksum: str) -> Shard | None:
        there = self._due[unit.index].there.get(level)
        if there is None:
            return self._shard_of(unit.index, level)
        if checksum != there[row]:
            self._differing[unit.index].add(level)
        return None


class PartFiles:
    """Writes units that were handed out, in any order; the locks are held until it is closed.

    Raises OSError if a part file cannot be opened, locked or written.
    """

    def __init__(self, manifest: Manifest, due: Sequence[UnitDue], *, num_threads: int) -> None:
        self._manifest = manifest
        self._shards: dict[tuple[int, int], OpenShard] = {}
        with ExitStack() as opened:
            handles: dict[str, int] = {}
            for each in due:
                for level, (part, offsets) in each.places.items():
                    if part not in handles:
                        handles[part] = os.open(part, os.O_RDWR | os.O_NOFOLLOW)
                        opened.callback(os.close, handles[part])
                    self._lock(handles[part], level, each, part)
                    self._shards[each.unit.index, level] = OpenShard(
                        handle=handles[part], part=Path(part), path=Path(part),
                        rows=_rows(each.unit), offsets=np.array(offsets, np.int64),
                    )  # fmt: skip
            self._pool = opened.enter_context(
                ThreadPoolExecutor(num_threads, initializer=limit_cores, initargs=(1,))
            )
            self._opened = opened.pop_all()
        self._units = DueUnits(manifest, due, lambda *key: self._shards[key], self._pool)

    def write(self, unit: Unit, maps: Mapping[int, Sequence[Map]]) -> list[UnitDone]:
        """Store a unit's next rows; return what became of it once it is whole, and durable."""
        done = self._units.write(unit, maps)
        if done is None:
            return []
        shards = [shard for (index, _), shard in self._shards.items() if index == unit.index]
        for _ in self._pool.map(os.fsync, [shard.handle for shard in shards]):
            pass
        return [done]

    def close(self) -> None:
        """Let go of all places."""
        self._opened.close()

    def _lock(self, handle: int, level: int, due: UnitDue, part: str) -> None:
        _, offsets = due.places[level]
        end = max(offsets) + self._manifest.sample_bytes(level, due.unit.bucket)
        lock_range(handle, Path(part), min(offsets), end - min(offsets))


def _rows(unit: Unit) -> range:
    return range(unit.first_row, unit.first_row + unit.num_rows)
