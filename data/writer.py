"""Write a cache unit by unit so that a crash at any moment loses at most the unit under way.

A shard grows under the name `<shard>.part`; each sample goes straight to its place in it. At the
end of a unit the touched files are synced, shards that are full get their real name, and one line
is added to commits.jsonl. What has no line is written again by the next run.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from configs.errors import CacheError
from data.atomic import sync_folder, write_atomically
from data.commits import Commit, CommitLog, read_commits
from data.manifest import Manifest
from data.plan import Unit, level_bytes, units_of
from data.statistics import ChannelStatistics, statistics_of
from data.stores import STORES, rows_of_shard

_OVERHEAD = 1.01  # indexes, metadata and commit lines next to the samples themselves


@dataclass(slots=True)
class _OpenShard:
    """A shard being written: its part file, and the byte offset of each of its samples."""

    handle: int
    part: Path
    path: Path
    rows: range
    offsets: Any


class CacheWriter:
    """Writes the units of a manifest that have no commit yet. Close it when done."""

    def __init__(self, cache: Path, manifest: Manifest, log: CommitLog) -> None:
        self._cache = cache
        self._manifest = manifest
        self._log = log
        self._store = STORES[manifest.container]
        self._units = units_of(manifest)
        self._unit_at = {(unit.bucket, unit.first_row): unit.index for unit in self._units}
        self._commits = self._with_their_files(read_commits(cache))
        self._open: dict[tuple[int, int, int], _OpenShard] = {}
        self._dtype = getattr(torch, manifest.dtype)

    @property
    def pending(self) -> list[Unit]:
        """The units still to be computed, in order."""
        return [unit for unit in self._units if unit.index not in self._commits]

    def prepare(self) -> None:
        """Write metadata; raises CacheError if the disk cannot hold what is still to be written."""
        pending = sum(unit.num_rows for unit in self.pending)
        if not pending:
            return
        total = sum(level_bytes(self._manifest, level.index) for level in self._manifest.levels)
        needed = int(total * _OVERHEAD * pending / len(self._manifest.samples))
        free = shutil.disk_usage(self._cache).free
        if needed > free:
            raise CacheError(
                f"{self._cache}: needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: "
                "free space, or store less (--levels, --limit, --dtype float16, a smaller "
                "detector.min_size); extract-features --dry-run shows the sizes"
            )
        for level in self._manifest.levels:
            self._store.create_level(
                self._cache, self._manifest, level.index, self._attributes(level.index)
            )

    def write_unit(self, unit: Unit, maps: dict[int, list[Tensor]]) -> int:
        """Store a unit's maps ({level: [H, W, C] float32 each, in row order}) and commit it.

        Returns the bytes written. Raises CacheError on a value that float16 cannot hold, and when
        the file system fails; nothing committed is lost then.
        """
        checksums: dict[int, list[str]] = {}
        statistics: dict[int, ChannelStatistics] = {}
        num_bytes = 0
        try:
            for level, tensors in maps.items():
                shard = self._shard_of(unit, level)
                parts = []
                checksums[level] = []
                for row, computed in enumerate(tensors, start=unit.first_row):
                    stored = self._cast(computed, level)
                    content = stored.numpy().data.cast("B")
                    _write_all(shard.handle, content, int(shard.offsets[row - shard.rows.start]))
                    checksums[level].append(xxhash.xxh3_64_hexdigest(content))
                    parts.append(statistics_of(stored, computed))
                    num_bytes += content.nbytes
                statistics[level] = reduce(ChannelStatistics.merged_with, parts)
            self._make_durable(unit)
            commit = Commit(unit=unit.index, checksums=checksums, statistics=statistics)
            self._log.append(commit)
        except OSError as error:
            raise CacheError(
                f"{error.filename or self._cache}: cannot be written ({error.strerror or error}): "
                "nothing committed is lost, mend it and run the same command again"
            ) from error
        self._commits[unit.index] = commit
        return num_bytes

    def finish(self) -> None:
        """Write each level's merged statistics, once every unit is committed."""
        for level in self._manifest.levels:
            parts = [self._commits[unit.index].statistics[level.index] for unit in self._units]
            merged = reduce(ChannelStatistics.merged_with, parts)
            write_atomically(
                statistics_path(self._cache, level.index), merged.to_json().encode() + b"\n"
            )

    def close(self) -> None:
        """Close the part files; they are taken up again by the next run."""
        for shard in self._open.values():
            os.close(shard.handle)
        self._open.clear()

    def _with_their_files(self, commits: dict[int, Commit]) -> dict[int, Commit]:
        """Leave out commits whose shard somebody removed: those units are computed again."""
        manifest = self._manifest
        gone: set[int] = set()
        for unit in self._units:
            bucket = manifest.buckets[unit.bucket]
            for level in manifest.levels:
                number = unit.first_row // bucket.samples_per_shard[level.index]
                path = self._store.shard_path(
                    self._cache, manifest, level.index, unit.bucket, number
                )
                if not path.exists() and not path.with_name(f"{path.name}.part").exists():
                    gone.add(unit.index)
        return {number: commit for number, commit in commits.items() if number not in gone}

    def _cast(self, computed: Tensor, level: int) -> Tensor:
        stored = computed.to(self._dtype).contiguous()
        if not torch.isfinite(stored).all():
            largest = float(computed.abs().max())
            raise CacheError(
                f"level {level}: a feature of magnitude {largest:.4g} does not fit "
                f"{self._manifest.dtype}: run with --dtype float32"
                if largest < float("inf")
                else f"level {level}: the detector computed infinite or NaN features: "
                "check its weights"
            )
        return stored

    def _shard_of(self, unit: Unit, level: int) -> _OpenShard:
        bucket = self._manifest.buckets[unit.bucket]
        number = unit.first_row // bucket.samples_per_shard[level]
        key = (level, unit.bucket, number)
        if key not in self._open:
            self._open[key] = self._open_shard(*key)
        return self._open[key]

    def _open_shard(self, level: int, bucket: int, number: int) -> _OpenShard:
        """Take up a part file that holds committed units, or lay out a new one."""
        manifest = self._manifest
        rows = rows_of_shard(manifest, level, bucket, number)
        path = self._store.shard_path(self._cache, manifest, level, bucket, number)
        part = path.with_name(f"{path.name}.part")
        if path.exists():
            # Visible, but its last unit has no commit line: the crash came between the two.
            path.replace(part)
        shape = manifest.sample_shape(level, bucket)
        capacity = manifest.buckets[bucket].samples_per_shard[level]
        sample_bytes = manifest.sample_bytes(level, bucket)
        begun = any(unit in self._commits for unit in self._units_in(bucket, rows))
        if part.exists() and begun:
            offsets = self._store.shard_offsets(part, len(rows), capacity, sample_bytes)
        else:
            offsets = self._store.create_shard(
                part, len(rows), capacity, shape, manifest.dtype, self._attributes(level)
            )
        handle = os.open(part, os.O_RDWR)
        # Space is taken now: a full disk shows here, not in the middle of a sample.
        os.posix_fallocate(handle, 0, os.fstat(handle).st_size)
        return _OpenShard(handle=handle, part=part, path=path, rows=rows, offsets=offsets)

    def _attributes(self, level: int) -> dict[str, Any]:
        info = self._manifest.level(level)
        return {
            "level": info.index,
            "key": info.key,
            "stride_px": info.stride_px,
            "units": "detector feature value (dimensionless)",
            "detector": self._manifest.detector.get("builder"),
        }

    def _units_in(self, bucket: int, rows: range) -> list[int]:
        """Return the indices of the units that fill these rows of a bucket."""
        rows_per_unit = min(self._manifest.buckets[bucket].samples_per_shard.values())
        return [self._unit_at[bucket, row] for row in range(rows.start, rows.stop, rows_per_unit)]

    def _make_durable(self, unit: Unit) -> None:
        """Sync the unit's bytes, and give full shards their real names."""
        for key, shard in list(self._open.items()):
            os.fsync(shard.handle)
            own = key[1] == unit.bucket and unit.first_row in shard.rows
            if own and self._is_full(unit, shard):
                os.close(shard.handle)
                del self._open[key]
                shard.part.replace(shard.path)
                sync_folder(shard.path.parent)

    def _is_full(self, last: Unit, shard: _OpenShard) -> bool:
        units = self._units_in(last.bucket, shard.rows)
        return all(unit in self._commits or unit == last.index for unit in units)


def statistics_path(cache: Path, level: int) -> Path:
    """Return the file of a level's merged statistics; it exists once the cache is complete."""
    return cache / f"statistics_level_{level}.json"


def _write_all(handle: int, content: memoryview, offset: int) -> None:
    done = 0
    while done < content.nbytes:
        done += os.pwrite(handle, content[done:], offset + done)
