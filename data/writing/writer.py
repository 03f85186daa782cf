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
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from pathlib import Path

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
from data.system.atomic_files import remove_leftovers, sync_folder, write_atomically
from data.system.locks import range_held
from data.system.threads import limit_cores
from data.writing.handed_out import UnitDone, UnitDue
from data.writing.handed_over import ImageBytes
from data.writing.unit_writer import Map, UnitWriter

log = logging.getLogger(__name__)

_OVERHEAD = 1.01  # indexes, metadata and commit lines next to the samples themselves


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
        self._taken_over: set[int] = set()
        self._marked: set[tuple[int, int]] = set()
        """(unit, level) of what was whole and is being replaced."""
        self._open: dict[tuple[int, int, int], OpenShard] = {}
        self._pool = ThreadPoolExecutor(num_threads, initializer=limit_cores, initargs=(1,))
        self._rows = UnitWriter(manifest, self._shard_for, self._pool)
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
        assert not self._has_failed, "a writer that has failed writes no more"
        self._has_failed = True
        try:
            num_bytes, commit = self._rows.write(unit, maps)
            if commit is not None:
                self._commit(unit, commit)
        except OSError as error:
            raise CacheError(
                f"{error.filename or self._cache}: cannot be written ({error.strerror or error}): "
                "nothing committed is lost, mend it and run the same command again"
            ) from error
        self._has_failed = False
        return num_bytes

    def hand_out(self, unit: Unit) -> UnitDue:
        """Lay out the shards of a pending unit for who computes and writes it elsewhere."""
        due, commit = self._due[unit.index], self._commits.get(unit.index)
        shards = {level: self._shard_of(unit, level) for level in due}
        return UnitDue(
            unit=unit,
            places={
                level: (str(shard.part), shard.offsets[_rows_in(shard, unit)].tolist())
                for level, shard in shards.items()
            },
            there={} if commit is None else {
                level: sums for level, sums in commit.checksums.items() if level not in due
            },
        )  # fmt: skip

    def take_back(self, unit: Unit, done: UnitDone) -> bool:
        """Commit a unit that was handed out and is written; say whether it is whole so.

        It is not where it came out otherwise at levels that were there: all levels must be of one
        run, so these are due now too, and it is pending still.
        """
        if done.differing:
            self._log.mark_damaged({unit.index: done.differing})
            self._due[unit.index] |= done.differing
            return False
        if unit.index in self._taken_over:
            self._sync([self._shard_of(unit, level) for level in self._due[unit.index]])
        self._note(unit, done.commit)
        return True

    def take_over(self, unit: Unit, image: ImageBytes) -> None:
        """Write what somebody computed of a unit that was handed out; `take_back` makes it last.

        Raises OSError if the file system fails, or has no locks.
        """
        self._taken_over.add(unit.index)
        for level, sample in image.samples.items():
            shard = self._shard_of(unit, level)
            # Who had the unit before, and wrote himself, may be at it still.
            with range_held(shard.handle, shard.part, shard.place_of(image.row), sample.nbytes):
                shard.write(image.row, sample.data)

    def _shard_for(self, unit: Unit, level: int, row: int, checksum: str) -> OpenShard | None:
        # Images may be computed again for the sake of another level. Where that gives the same
        # bits the sample stays untouched; where it does not, all levels must be of one run.
        untouched = level not in self._due[unit.index]
        if untouched and checksum == self._commits[unit.index].checksums[level][row]:
            return None
        with self._opening:
            if untouched and (unit.index, level) not in self._marked:
                # Durable before a committed byte is touched: a crash must not pass it off as whole.
                self._log.mark_damaged({unit.index: [level]})
                self._marked.add((unit.index, level))
            return self._shard_of(unit, level)

    def _commit(self, unit: Unit, commit: Commit) -> None:
        self._sync(self._open.values())
        self._note(unit, commit)

    def _sync(self, shards: Iterable[OpenShard]) -> None:
        # At once, if there are threads for it: each has to wait for the disk.
        for _ in self._pool.map(os.fsync, [shard.handle for shard in shards]):
            pass

    def _note(self, unit: Unit, commit: Commit) -> None:
        self._show_full_shards(unit)
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

    def _show_full_shards(self, unit: Unit) -> None:
        """Give shards that are full with the unit, and synced, their real names."""
        folders: set[Path] = set()
        full: list[tuple[int, int, int]] = []
        for key, shard in list(self._open.items()):
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


def _rows_in(shard: OpenShard, unit: Unit) -> slice:
    first = unit.first_row - shard.rows.start
    return slice(first, first + unit.num_rows)
