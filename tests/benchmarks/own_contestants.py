"""Our own readers, and the limit: the same bytes read straight into a batch, nothing else done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from data.cache.containers import STORES, rows_of_shard
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from tests.benchmarks.contestant import (
    BATCH_SIZE,
    BatchBuffer,
    Contestant,
    Samples,
    groups,
    shuffled,
)
from tests.benchmarks.synthetic_cache import plan_cache, write_cache


def ours_zarr(samples: Samples, cache: Path, resources: ExitStack) -> Contestant:
    """Write a Zarr cache with CacheWriter; read it with LevelStream."""
    return _ours("zarr", samples, cache, resources)


def ours_hdf5(samples: Samples, cache: Path, resources: ExitStack) -> Contestant:
    """Write an HDF5 cache with CacheWriter; read it with LevelStream."""
    return _ours("hdf5", samples, cache, resources)


def limit(samples: Samples, cache: Path, resources: ExitStack) -> Contestant:
    """Read a Zarr cache that is there, sample by sample, in a random order."""
    manifest = LevelReader(cache, samples.level).manifest
    store = STORES[manifest.container]
    bucket = manifest.buckets[0]
    places: list[tuple[int, int]] = []
    for shard in range(bucket.num_shards(samples.level)):
        path = store.shard_path(cache, manifest, samples.level, 0, shard)
        rows = rows_of_shard(manifest, samples.level, 0, shard)
        offsets = store.shard_offsets(
            path, len(rows), bucket.samples_per_shard[samples.level], samples.sample_bytes
        )
        handle = os.open(path, os.O_RDONLY)
        resources.callback(os.close, handle)
        places += [(handle, offset) for offset in offsets.tolist()]
    buffer = BatchBuffer(samples.shape)
    slots = [memoryview(slot).cast("B") for slot in buffer.slots]

    def epoch(number: int) -> Iterator[Tensor]:
        for group in groups(shuffled(samples.num, number)):
            for slot, index in enumerate(group.tolist()):
                handle, offset = places[index]
                os.preadv(handle, [slots[slot]], offset)
            yield buffer.features[: len(group)]

    return Contestant(epoch=epoch, num_samples=samples.num)


def _ours(container: str, samples: Samples, cache: Path, resources: ExitStack) -> Contestant:
    height, width, channels = samples.shape
    manifest, images = plan_cache(
        samples.num,
        {samples.level: (height, width)},
        container=container,
        num_channels=channels,
    )
    write_cache(cache, manifest, images, lambda row, shape: samples[row])
    reader = resources.enter_context(LevelReader(cache, samples.level))
    stream = LevelStream(reader, batch_size=BATCH_SIZE, crop=None)

    def epoch(number: int) -> Iterator[Tensor]:
        stream.set_epoch(number)
        for batch in stream:
            yield batch.features

    return Contestant(epoch=epoch, num_samples=samples.num)
