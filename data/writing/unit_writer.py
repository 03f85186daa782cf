"""Write samples of units into shards that lie open: cast, checked, summed up for the commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from data.cache.channel_statistics import ChannelStatistics
from data.cache.commit_log import Commit
from data.cache.manifest import Manifest
from data.cache.plan import Unit
from data.writing.stored_sample import SampleCaster, StoredMap, StoredSample

_TASK_BYTES = 2**20  # small maps go to a thread together: handing one over costs more than it
_MERGED_AT_ONCE = 64  # samples' statistics: one by one takes long, all of a unit much memory

Map = Tensor | StoredMap
"""A sample to write: [H, W, C] float32 on the CPU, or what a GPU has made of it."""


class Shard(Protocol):
    """Where samples of a level go."""

    def write(self, row: int, content: memoryview) -> None:
        """Store the bytes of the sample of a bucket's row; they are valid until this returns."""


ShardFor = Callable[[Unit, int, int, str], Shard | None]
"""(unit, level, row of the unit, checksum) -> where to write that sample; None: it is there."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What the commit says of a sample, and how many bytes were written for it."""

    checksum: str
    statistics: ChannelStatistics
    num_bytes: int


class _Progress:
    """What is known of the rows of a unit that have been written so far."""

    def __init__(self, levels: Iterable[int]) -> None:
        self.num_rows = 0
        self._checksums: dict[int, list[str]] = {level: [] for level in levels}
        self._statistics: dict[int, list[ChannelStatistics]] = {level: [] for level in levels}

    def add(self, level: int, sample: _Written) -> None:
        """Take in the next sample of a level."""
        self._checksums[level].append(sample.checksum)
        parts = self._statistics[level]
        parts.append(sample.statistics)
        if len(parts) == _MERGED_AT_ONCE:
            self._statistics[level] = [ChannelStatistics.merged(parts)]

    def commit(self, unit: int) -> Commit:
        """Return what the log says of the unit."""
        merged = {k: ChannelStatistics.merged(parts) for k, parts in self._statistics.items()}
        return Commit(unit=unit, checksums=self._checksums, statistics=merged)


class UnitWriter:
    """Writes rows of units, as they come, on the threads of a pool; several threads ask for shards.

    After an error it writes no more: rows are missing, and those that follow would take their
    places.
    """

    def __init__(self, manifest: Manifest, shard_for: ShardFor, pool: ThreadPoolExecutor) -> None:
        self._manifest = manifest
        self._shard_for = shard_for
        self._pool = pool
        self._progress: dict[int, _Progress] = {}
        self._of_thread = threading.local()

    def write(self, unit: Unit, maps: Mapping[int, Sequence[Map]]) -> tuple[int, Commit | None]:
        """Store a unit's next rows ({level: [H, W, C] float32 each}).

        Returns the bytes written, and what the log is to say once the unit is whole. Raises
        CacheError on a value that the stored type cannot hold, OSError if the file system fails.
        """
        progress = self._progress.setdefault(unit.index, _Progress(maps))
        num_bytes = 0
        tasks = [
            (level, self._pool.submit(self._write_samples, unit, level, row, tensors))
            for level, row, tensors in self._tasks(unit, maps, progress.num_rows)
        ]
        for level, task in tasks:
            for sample in task.result():
                progress.add(level, sample)
                num_bytes += sample.num_bytes
        progress.num_rows += len(next(iter(maps.values())))
        if progress.num_rows < unit.num_rows:
            return num_bytes, None
        return num_bytes, self._progress.pop(unit.index).commit(unit.index)

    def _tasks(
        self, unit: Unit, maps: Mapping[int, Sequence[Map]], first_row: int
    ) -> Iterator[tuple[int, int, Sequence[Map]]]:
        """Yield (level, first row, maps) of what a thread takes at once: a large map, or some."""
        for level, tensors in maps.items():
            step = max(1, _TASK_BYTES // self._manifest.sample_bytes(level, unit.bucket))
            for begin in range(0, len(tensors), step):
                yield level, first_row + begin, tensors[begin : begin + step]

    def _write_samples(
        self, unit: Unit, level: int, first_row: int, tensors: Sequence[Map]
    ) -> list[_Written]:
        if not hasattr(self._of_thread, "caster"):
            self._of_thread.caster = SampleCaster(self._manifest.dtype, self._manifest.codes or {})
        return [
            self._write_sample(unit, level, row, computed)
            for row, computed in enumerate(tensors, start=first_row)
        ]

    def _write_sample(self, unit: Unit, level: int, row: int, computed: Map) -> _Written:
        """Store one sample unless the very same is there."""
        sample: StoredSample = (
            computed.sample(level)
            if isinstance(computed, StoredMap)
            else self._of_thread.caster.cast(computed, level)
        )
        shard = self._shard_for(unit, level, row, sample.checksum)
        if shard is None:
            return _Written(sample.checksum, sample.statistics, 0)
        shard.write(unit.first_row + row, sample.content)
        return _Written(sample.checksum, sample.statistics, sample.content.nbytes)
