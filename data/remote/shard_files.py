"""Files for remote shards: of holes, with what is no sample alone, or brought here whole."""

from __future__ import annotations

import os
from pathlib import Path

from configs.errors import CacheError
from data.cache.containers import STORES, rows_of_shard, shards_of
from data.cache.manifest import Manifest
from data.places.object_store import PART_BYTES
from data.remote.held_shard import HeldShard, describe_shard, held_path, tag_of
from data.remote.local_copy import Key, LocalCopy, at_once, shard_file
from data.system.array_files import write_all

_MOST_INDEX_BYTES = 2**26  # 16 for a sample: so many lie in no shard


def open_shards(copy: LocalCopy, manifest: Manifest, level: int) -> list[HeldShard]:
    """Open a level's shards; files of those not seen before, or not as they are now, are made.

    Raises CacheError if one is missing, or its index is damaged.
    """
    keys = [key for key in shards_of(manifest) if key[0] == level]
    folder = STORES[manifest.container].level_folder(copy.folder, level)
    with copy.alone():
        there = copy.remote.versions(copy.name_of(folder))

        def bring(key: Key) -> Path:
            path = shard_file(copy.folder, manifest, key)
            name = copy.name_of(path)
            if name not in there:
                raise CacheError(
                    f"{copy.remote}/{name}: missing: the cache is incomplete: "
                    f"run extract-features --split {manifest.split} again"
                )
            size, tag = there[name]
            if tag_of(path) != tag:
                make_shard(copy, manifest, key, size, tag)
            return path

        opened = [HeldShard(path) for path in at_once(bring, keys)]
        for shard in opened:
            shard.used_now()
    return opened


def make_shard(copy: LocalCopy, manifest: Manifest, key: Key, size: int, tag: str) -> None:
    """Make a file of holes as large as the remote one, with what is no sample of it.

    In Zarr that is an index at the end; in HDF5 some kilobytes before the samples and after.
    """
    path = shard_file(copy.folder, manifest, key)
    level, bucket, _ = key
    samples_bytes = len(rows_of_shard(manifest, *key)) * manifest.sample_bytes(level, bucket)
    other_bytes = size - samples_bytes
    if not 0 < other_bytes <= _MOST_INDEX_BYTES:
        raise CacheError(
            f"{copy.remote}/{copy.name_of(path)}: is of another size than the manifest says: run "
            f"extract-features --split {manifest.split} again"
        )
    new = _new_file(path, size)
    try:
        with new.open("r+b") as file:
            for start in STORES[manifest.container].around_samples(size, other_bytes):
                file.seek(start)
                file.write(copy.remote.get_range(copy.name_of(path), start, other_bytes))
        describe_file(path, tag, manifest, key, whole=False, content=new)
    finally:
        new.unlink(missing_ok=True)


def bring_shard(copy: LocalCopy, path: Path, size: int) -> None:
    """Copy a remote shard whole, for one who goes on writing it: nothing of it is ever dropped."""
    name = copy.name_of(path)
    new = _new_file(path, size)
    handle = os.open(new, os.O_RDWR)

    def fetch(start: int) -> None:
        content = copy.remote.get_range(name, start, min(PART_BYTES, size - start))
        write_all(handle, content, start)

    try:
        at_once(fetch, range(0, size, PART_BYTES))
    finally:
        os.close(handle)
    path.unlink(missing_ok=True)  # first: with nothing beside it, it would count as whole
    held_path(path).unlink(missing_ok=True)
    new.replace(path)


def describe_file(
    path: Path, tag: str, manifest: Manifest, key: Key, *, whole: bool, content: Path | None = None
) -> None:
    """Note which remote content a shard's file is of; `content` takes its place, if given.

    CacheError if its index is damaged.
    """
    level, bucket, _ = key
    sample_bytes = manifest.sample_bytes(level, bucket)
    offsets = STORES[manifest.container].shard_offsets(
        content or path, len(rows_of_shard(manifest, *key)),
        manifest.buckets[bucket].samples_per_shard[level], sample_bytes,
    )  # fmt: skip
    if content is not None:
        path.unlink(missing_ok=True)  # nor may what was there pass for what is described now
    describe_shard(path, tag, offsets, sample_bytes, whole=whole)
    if content is not None:
        content.replace(path)


def _new_file(path: Path, size: int) -> Path:
    new = path.with_name(f"{path.name}.new")
    new.parent.mkdir(parents=True, exist_ok=True)
    with new.open("wb") as file:
        file.truncate(size)
    return new
