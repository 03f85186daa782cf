"""Write a cache unit by unit so that a crash at any moment loses at most the unit under way.

A shard grows under the name `<shard>.part`; each sample goes straight to its place in it. At the
end of a unit the touched files are synced, shards that are full get their real name, and one line
is added to commits.jsonl. What has no line is written again by the next run; so is what was found
damaged, level by level.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

from torch import Tensor

from configs.errors import CacheError
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import ChannelStatistics, statistics_path
from data.cache.commit_log import FILE_NAME as LOG_NAME
from data.cache.commit_log import Commit, CommitLog, fitting, read_commits
from data.cache.containers import differing_metadata, rows_of_shard
from data.cache.manifest import Manifest
from data.cache.plan import Unit, units_of, units_of_rows
from data.cache.units_due import OpenShard, bytes_to_lay_out, levels_due, open_shard
from data.remote.sending import Sender
from data.system.array_files import start_writing, write_all
from data.system.atomic_files import remove_leftovers, sync_folder, write_atomically
from data.system.threads import limit_cores
from data.writing.stored_sample import SampleCaster, StoredMap, StoredSample

log = logging.getLogger(__name__)

_TASK_BYTES = 2**20  # small maps go to a thread together: handing one over costs more than it
_MERGED_AT_ONCE = 64  # samples' statistics: one by one takes long, all of a unit much memory
_HASTENED_BYTES = 2**18  # smaller samples wait for others: a call for each would cost more
_OVERHEAD = 1.01  # indexes, metadata and commit lines next to the samples themselves

Map = Tensor | StoredMap
"""A sample to write: [H, W, C] float32 on the CPU, or what a GPU has made of it."""


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


class CacheWriter:
    """Writes the units of a manifest that are not whole yet. Close it when done.

    `num_threads` cast, check and write samples at once: a GPU computes faster than one core casts.
    `sender` hears of what is whole, if the cache is the copy of a remote one.
    """

    def __init__(
        self,
        cache: CacheFolder | Path | str,
        manifest: Manifest,
        log: CommitLog,
        *,
        num_threads: int = 1,
        sender: Sender | None = None,
    ) -> None:
        folder = CacheFolder.of(cache)
        self._sender = sender
        self._cache = folder.path
        self._manifest = manifest
        self._log = log
        self._units = units_of(manifest)
        self._commits = dict(folder.commits)
        self._due = levels_due(self._cache, manifest, self._commits)
        self._marked: set[tuple[int, int]] = set()
        """(unit, level) of what was whole and is being replaced."""
        self._open: dict[tuple[int, int, int], OpenShard] = {}
        self._progress: dict[int, _Progress] = {}
        self._pool = ThreadPoolExecutor(num_threads, initializer=limit_cores, initargs=(1,))
        self._of_thread = threading.local()
        self._opening = threading.Lock()
        self._has_failed = False

    @property
    def pending(self) -> list[Unit]:
        """The units still to be computed, in order."""
        return [unit for unit in self._units if self._due[unit.index]]

    def prepare(self) -> None:
        """Write metadata; raises CacheError if the disk cannot hold what is still to be written."""
        needed = int(_OVERHEAD * bytes_to_lay_out(self._cache, self._manifest, self._due))
        free = shutil.disk_usage(self._cache).free
        if needed > free and self._sender is None:  # what is sent makes room
            raise CacheError(
                f"{self._cache}: needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: "
                "free space, or store less (--levels, --limit, --dtype float16, a smaller "
                "detector.min_size); extract-features --dry-run shows the sizes"
            )
        for level in self._manifest.levels:
            missing = differing_metadata(self._cache, self._manifest, level.index)
            for path, content in missing.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers(path.parent)
                write_atomically(path, content)

    def write(self, unit: Unit, maps: Mapping[int, Sequence[Map]]) -> int:
        """Store a unit's next rows ({level: [H, W, C] float32 each}); its last rows commit it.

        Maps that a GPU has cast are written as they are. Returns the bytes written. Raises
        CacheError on a value that the stored type cannot hold, and when the file system fails;
        nothing committed is lost then.
        """
        # After a failure rows are missing, and those that follow would take their places.
        assert not self._has_failed, "a writer that has failed writes no more"
        self._has_failed = True
        progress = self._progress.setdefault(unit.index, _Progress(maps))
        num_bytes = 0
        try:
            tasks = [
                (level, self._pool.submit(self._write_samples, unit, level, row, tensors))
                for level, row, tensors in self._tasks(unit, maps, progress.num_rows)
            ]
            for level, task in tasks:
                for sample in task.result():
                    progress.add(level, sample)
                    num_bytes += sample.num_bytes
            progress.num_rows += len(next(iter(maps.values())))
            if progress.num_rows == unit.num_rows:
                self._commit(unit, self._progress.pop(unit.index))
        except OSError as error:
            raise CacheError(
                f"{error.filename or self._cache}: cannot be written ({error.strerror or error}): "
                "nothing committed is lost, mend it and run the same command again"
            ) from error
        self._has_failed = False
        return num_bytes

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
        # Images may be computed again for the sake of another level. Where that gives the same
        # bits the sample stays untouched; where it does not, all levels must be of one run.
        untouched = level not in self._due[unit.index]
        if untouched and sample.checksum == self._commits[unit.index].checksums[level][row]:
            return _Written(sample.checksum, sample.statistics, 0)
        with self._opening:
            if untouched and (unit.index, level) not in self._marked:
                # Durable before a committed byte is touched: a crash must not pass it off as whole.
                self._log.mark_damaged({unit.index: [level]})
                self._marked.add((unit.index, level))
            shard = self._shard_of(unit, level)
        offset = int(shard.offsets[unit.first_row + row - shard.rows.start])
        write_all(shard.handle, sample.content, offset)
        if sample.content.nbytes >= _HASTENED_BYTES:
            start_writing(shard.handle, offset, sample.content.nbytes)
        return _Written(sample.checksum, sample.statistics, sample.content.nbytes)

    def _commit(self, unit: Unit, progress: _Progress) -> None:
        self._make_durable(unit)
        commit = progress.commit(unit.index)
        self._log.append(commit)
        if self._sender is not None:
            self._sender.unit_is_written(commit)
        self._commits[unit.index] = replace(commit, statistics={})
        self._due[unit.index] = frozenset()

    def finish(self) -> None:
        """Write each level's merged statistics, once every unit is committed."""
        commits = fitting(read_commits(self._cache), self._manifest)
        if any(unit.index not in commits for unit in self._units):
            raise CacheError(
                f"{self._cache / LOG_NAME}: was changed meanwhile, or was not written by us: "
                "remove it and run the same command again"
            )
        for level in self._manifest.levels:
            parts = [commits[unit.index].statistics[level.index] for unit in self._units]
            merged = reduce(ChannelStatistics.merged_with, parts)
            write_atomically(
                statistics_path(self._cache, level.index), merged.to_json().encode() + b"\n"
            )
            if merged.num_clipped is not None:
                log.info(
                    "level %d in 8 bits: mean squared error %.3g, variance %.3g; %d of %d values "
                    "lay beyond the ranges and were clipped",
                    level.index, merged.cast_mse, merged.variance.mean(),
                    merged.num_clipped.sum(), merged.count * len(merged.mean),
                )  # fmt: skip

    def close(self) -> None:
        """Close the part files; they are taken up again by the next run."""
        self._pool.shutdown()
        for shard in self._open.values():
            os.close(shard.handle)
        self._open.clear()

    def _shard_of(self, unit: Unit, level: int) -> OpenShard:
        bucket = self._manifest.buckets[unit.bucket]
        number = unit.first_row // bucket.samples_per_shard[level]
        key = (level, unit.bucket, number)
        if key not in self._open:
            self._open[key] = self._open_shard(*key)
        return self._open[key]

    def _open_shard(self, level: int, bucket: int, number: int) -> OpenShard:
        rows = rows_of_shard(self._manifest, level, bucket, number)
        units = units_of_rows(self._manifest, bucket, rows)
        is_begun = any(level not in self._due[unit] for unit in units)
        if not is_begun:
            self._forget(units, level)
        return open_shard(self._cache, self._manifest, level, bucket, number, is_begun=is_begun)

    def _forget(self, units: Iterable[int], level: int) -> None:
        """Note that the samples of committed units are gone: others will fill the shard first."""
        gone = [
            unit
            for unit in units
            if unit in self._commits and level not in self._commits[unit].damaged
        ]
        if gone:
            self._log.mark_damaged({unit: [level] for unit in gone})

    def _make_durable(self, unit: Unit) -> None:
        """Sync the unit's bytes, and give full shards their real names."""
        opened = list(self._open.items())
        # At once, if there are threads for it: each has to wait for the disk.
        for _ in self._pool.map(os.fsync, [shard.handle for _, shard in opened]):
            pass
        folders: set[Path] = set()
        full: list[tuple[int, int, int]] = []
        for key, shard in opened:
            own = key[1] == unit.bucket and unit.first_row in shard.rows
            if own and self._is_full(unit, key[0], shard):
                os.close(shard.handle)
                del self._open[key]
                shard.part.replace(shard.path)
                folders.add(shard.path.parent)
                full.append(key)
        for _ in self._pool.map(sync_folder, folders):
            pass
        if self._sender is not None:
            for key in full:
                self._sender.shard_is_whole(key)

    def _is_full(self, last: Unit, level: int, shard: OpenShard) -> bool:
        units = units_of_rows(self._manifest, last.bucket, shard.rows)
        return all(level not in self._due[unit] or unit == last.index for unit in units)
