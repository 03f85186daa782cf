"""What of a plan is still to be stored, and the `<shard>.part` files of shards until then."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import CacheError, PassingError
from data.cache.commit_log import Commit
from data.cache.containers import STORES, level_arrays, level_attributes, rows_of_shard, shards_of
from data.cache.manifest import Manifest
from data.cache.plan import units_of, units_of_rows
from data.system.array_files import start_writing, take_space, write_all
from data.system.atomic_files import copy_durably

_HASTENED_BYTES = 2**18  # smaller samples wait for others: a call for each would cost more


def levels_due(
    cache: Path, manifest: Manifest, commits: Mapping[int, Commit]
) -> dict[int, frozenset[int]]:
    """Return unit -> levels to be stored; an empty set for a unit that is whole.

    A shard's file is looked at for its size and index only; `data.verification.check` reads it all.
    Raises PassingError if the system refuses one: it may be whole.
    """
    levels = frozenset(level.index for level in manifest.levels)
    due = {
        unit.index: commits[unit.index].damaged if unit.index in commits else levels
        for unit in units_of(manifest)
    }
    for level, bucket, shard in shards_of(manifest):
        rows = rows_of_shard(manifest, level, bucket, shard)
        units = units_of_rows(manifest, bucket, rows)
        stored = [n for n in units if level not in due[n]]
        # Of a shard with nothing due a part file is no whole one: nobody would ever finish it.
        unfinished = len(stored) < len(units)
        if stored and not _is_sound(cache, manifest, level, bucket, shard, or_part=unfinished):
            for number in stored:
                due[number] = due[number] | {level}
    return due


def bytes_to_lay_out(cache: Path, manifest: Manifest, due: Mapping[int, frozenset[int]]) -> int:
    """Return the bytes of samples for which room is needed: of shards that have no file yet.

    A shard that is mended lies there twice until it is whole; of each level one at a time.
    """
    total = 0
    twice: dict[int, int] = {}
    for level, bucket, shard in shards_of(manifest):
        rows = rows_of_shard(manifest, level, bucket, shard)
        path = STORES[manifest.container].shard_path(cache, manifest, level, bucket, shard)
        if part_path(path).exists() or not any(
            level in due[n] for n in units_of_rows(manifest, bucket, rows)
        ):
            continue
        num_bytes = len(rows) * manifest.sample_bytes(level, bucket)
        if path.exists():
            twice[level] = max(twice.get(level, 0), num_bytes)
        else:
            total += num_bytes
    return total + sum(twice.values())


def part_path(path: Path) -> Path:
    """Return the name of a shard's file while it is being written."""
    return path.with_name(f"{path.name}.part")


def _is_sound(
    cache: Path, manifest: Manifest, level: int, bucket: int, shard: int, *, or_part: bool
) -> bool:
    """Say whether a shard's file has full size and index.

    Its part file, if that is allowed and there: what is whole of it has gone there.
    """
    store = STORES[manifest.container]
    rows = rows_of_shard(manifest, level, bucket, shard)
    capacity = manifest.buckets[bucket].samples_per_shard[level]
    path = store.shard_path(cache, manifest, level, bucket, shard)
    for candidate in (part_path(path), path) if or_part else (path,):
        try:
            store.shard_offsets(
                candidate, len(rows), capacity, manifest.sample_bytes(level, bucket)
            )
        except FileNotFoundError:
            continue
        except CacheError:
            return False
        except OSError as error:
            raise PassingError.reading(candidate, error) from error
        return True
    return False


@dataclass(slots=True)
class OpenShard:
    """A shard being written: its part file, and the byte offset of each of its samples."""

    handle: int
    part: Path
    path: Path
    rows: range
    offsets: Any

    def place_of(self, row: int) -> int:
        """Return the byte offset of the sample of a bucket's row."""
        return int(self.offsets[row - self.rows.start])

    def write(self, row: int, content: memoryview) -> None:
        """Write the bytes of the sample of a bucket's row; OSError if the file system fails."""
        offset = self.place_of(row)
        write_all(self.handle, content, offset)
        if content.nbytes >= _HASTENED_BYTES:
            start_writing(self.handle, offset, content.nbytes)


def open_shard(
    cache: Path, manifest: Manifest, level: int, bucket: int, number: int, *, is_begun: bool
) -> OpenShard:
    """Take up the part file of a shard that `is_begun`: samples of it stay; or lay out a new one.

    A file that is visible is never written: readers may have it mapped.
    """
    store = STORES[manifest.container]
    rows = rows_of_shard(manifest, level, bucket, number)
    path = store.shard_path(cache, manifest, level, bucket, number)
    part = part_path(path)
    # Without parents: a lost mount is not to be replaced by a folder of the same name.
    part.parent.mkdir(exist_ok=True)
    if part.is_symlink():  # in a cache of somebody else's: what it leads to is not written
        part.unlink()
    shape = manifest.sample_shape(level, bucket)
    capacity = manifest.buckets[bucket].samples_per_shard[level]
    if is_begun:
        if not part.exists():
            # Visible, but to be written: its last unit has no commit line since a crash came
            # between the two, or a part of it is damaged.
            copy_durably(path, part)
        sample_bytes = manifest.sample_bytes(level, bucket)
        offsets = store.shard_offsets(part, len(rows), capacity, sample_bytes)
    else:
        offsets = store.create_shard(
            part, len(rows), capacity, shape, manifest.dtype, level_attributes(manifest, level),
            level_arrays(manifest, level),
        )  # fmt: skip
    handle = os.open(part, os.O_RDWR)
    # Space is taken now: a full disk shows here, not in the middle of a sample.
    take_space(handle, os.fstat(handle).st_size)
    return OpenShard(handle=handle, part=part, path=path, rows=rows, offsets=offsets)
