"""Shards that are being written, under the name `<shard>.part`, until they are whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.cache.containers import STORES, level_arrays, level_attributes, rows_of_shard
from data.cache.manifest import Manifest
from data.cache.units_due import part_path
from data.system.atomic_files import copy_durably
from data.system.placed_writes import take_space


@dataclass(slots=True)
class OpenShard:
    """A shard being written: its part file, and the byte offset of each of its samples."""

    handle: int
    part: Path
    path: Path
    rows: range
    offsets: Any


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
