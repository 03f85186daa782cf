"""Caches of random values in one bucket: written by the real writer, or laid out fast."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from configs.schema.data import Container
from data.cache.channel_statistics import ChannelStatistics
from data.cache.commit_log import Commit, CommitLog
from data.cache.containers import STORES, rows_of_shard
from data.cache.manifest import Manifest
from data.cache.manifest_parts import LevelInfo
from data.cache.plan import plan_samples, units_of
from data.images.records import ImageRecord, ImageSet
from data.writing.settle import settle_cache
from data.writing.stored_sample import SampleCaster
from data.writing.writer import CacheWriter

NUM_CHANNELS = 256
_DISTINCT_SAMPLES = 32
_DETECTOR = {
    "builder": "synthetic", "checkpoint": None, "weights": None, "weights_sha256": "",
    "weights_file_sha256": None, "configured": {"min_size": None, "max_size": None},
    "min_size": 800, "max_size": 1333, "resize": None, "size_divisible": 1,
}  # fmt: skip


def random_map(index: int, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return sample `index`, float16 [H, W, C]: normal values, the same each time."""
    generator = np.random.default_rng([index, *shape])
    return generator.standard_normal(shape, dtype=np.float32).astype(np.float16)


def plan_cache(
    num_samples: int,
    level_shapes: Mapping[int, tuple[int, int]],
    *,
    container: Container = "zarr",
    num_channels: int = NUM_CHANNELS,
    shard_megabytes: float = 128,
) -> tuple[Manifest, ImageSet]:
    """Return the real plan of a float16 cache whose images all have one size."""
    finest = min(level_shapes)
    strides = {level: 4 * 2**level for level in level_shapes}
    size = tuple(side * strides[finest] for side in level_shapes[finest])
    levels = tuple(
        LevelInfo(
            index=level, key=str(level), stride_px=strides[level], num_channels=num_channels,
            derived_from=None,
        )
        for level in sorted(level_shapes)
    )  # fmt: skip
    records = tuple(
        ImageRecord(
            image_id=number + 1, file=f"synthetic:{number}", height=size[0], width=size[1],
            boxes_xyxy=np.zeros((0, 4), np.float32), category_ids=np.zeros(0, np.int64),
            ignored=np.zeros(0, bool),
        )
        for number in range(num_samples)
    )  # fmt: skip
    buckets, samples = plan_samples(
        records, [(size[0], size[1])] * num_samples, levels=levels,
        shapes_of=lambda height, width: level_shapes, divisible=1, bytes_per_value=2,
        max_shard_bytes=int(shard_megabytes * 2**20),
    )  # fmt: skip
    manifest = Manifest(
        format_version=1, dataset="synthetic", split="train", container=container,
        dtype="float16", detector=_DETECTOR, levels=levels, buckets=buckets, samples=samples,
    )  # fmt: skip
    return manifest, ImageSet(split="train", records=records, categories={})


def write_cache(
    folder: Path,
    manifest: Manifest,
    images: ImageSet,
    values: Callable[[int, tuple[int, int, int]], NDArray[Any]] = random_map,
) -> None:
    """Write `values(row, shape)` through CacheWriter, as an extraction would."""
    folder.mkdir(parents=True)
    with CommitLog(folder) as log:
        settle_cache(folder, manifest, images, log, overwrite=False)
        with closing(CacheWriter(folder, manifest, log)) as writer:
            pending = writer.pending
            writer.prepare()
            for unit in pending:
                rows = range(unit.first_row, unit.first_row + unit.num_rows)
                maps: dict[int, list[Tensor]] = {}
                for level in manifest.levels:
                    shape = manifest.sample_shape(level.index, 0)
                    maps[level.index] = [
                        torch.from_numpy(values(row, shape)).float() for row in rows
                    ]
                writer.write(unit, maps)
            writer.finish()


def lay_out_cache(folder: Path, manifest: Manifest, images: ImageSet) -> None:
    """Fill a cache at the disk's speed: 32 distinct samples repeat, all else is as usual.

    Shards, checksums, statistics and commit lines are those that CacheWriter would leave.
    """
    folder.mkdir(parents=True)
    repeated = {level.index: _repeated_samples(manifest, level.index) for level in manifest.levels}
    with CommitLog(folder) as log:
        settle_cache(folder, manifest, images, log, overwrite=False)
        with closing(CacheWriter(folder, manifest, log)) as writer:
            writer.prepare()
        for level, (contents, _, _) in repeated.items():
            for number in range(manifest.buckets[0].num_shards(level)):
                _fill_shard(folder, manifest, level, number, contents)
        for unit in units_of(manifest):
            rows = range(unit.first_row, unit.first_row + unit.num_rows)
            picks = [row % _DISTINCT_SAMPLES for row in rows]
            log.append(
                Commit(
                    unit=unit.index,
                    checksums={k: [v[1][pick] for pick in picks] for k, v in repeated.items()},
                    statistics={
                        k: ChannelStatistics.merged([v[2][pick] for pick in picks])
                        for k, v in repeated.items()
                    },
                )
            )
        with closing(CacheWriter(folder, manifest, log)) as writer:
            assert not writer.pending
            writer.finish()


def shard_files(folder: Path, manifest: Manifest, level: int) -> list[Path]:
    """Return the shard files of a level, in order."""
    store = STORES[manifest.container]
    return [
        store.shard_path(folder, manifest, level, 0, number)
        for number in range(manifest.buckets[0].num_shards(level))
    ]


def _repeated_samples(
    manifest: Manifest, level: int
) -> tuple[list[bytes], list[str], list[ChannelStatistics]]:
    """Return the distinct samples' bytes, checksums and statistics."""
    shape = manifest.sample_shape(level, 0)
    samples = [random_map(index, shape) for index in range(_DISTINCT_SAMPLES)]
    contents = [sample.tobytes() for sample in samples]
    caster = SampleCaster(manifest.dtype)
    return (
        contents,
        [xxhash.xxh3_64_hexdigest(content) for content in contents],
        [caster.cast(torch.from_numpy(sample).float(), level).statistics for sample in samples],
    )


def _fill_shard(
    folder: Path, manifest: Manifest, level: int, number: int, contents: list[bytes]
) -> None:
    store = STORES[manifest.container]
    path = store.shard_path(folder, manifest, level, 0, number)
    rows = rows_of_shard(manifest, level, 0, number)
    capacity = manifest.buckets[0].samples_per_shard[level]
    attributes = {"level": level}
    path.parent.mkdir(exist_ok=True)
    offsets = store.create_shard(
        path, len(rows), capacity, manifest.sample_shape(level, 0), manifest.dtype, attributes, {}
    )
    handle = os.open(path, os.O_RDWR)
    try:
        for row, offset in zip(rows, offsets.tolist(), strict=True):
            os.pwrite(handle, contents[row % _DISTINCT_SAMPLES], offset)
        os.fsync(handle)
    finally:
        os.close(handle)
