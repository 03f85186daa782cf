"""Read one level of a cache: each shard's index once, then samples straight from mapped files."""

from __future__ import annotations

import mmap
import resource
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import CacheError
from data.manifest import LevelInfo, Manifest
from data.statistics import ChannelStatistics
from data.stores import STORES, rows_of_shard
from data.writer import statistics_path


class LevelReader:
    """One level of a finished cache, as arrays that are read when they are touched.

    Sample i is the image `manifest.samples[i]`. Raises CacheError if the level is not stored, not
    complete, or a shard's size or index is wrong.
    """

    def __init__(self, cache: Path, level: int) -> None:
        self.manifest = Manifest.load(cache)
        self.info: LevelInfo = self.manifest.level(level)
        self.statistics = _read_statistics(cache, level)
        self._maps: list[mmap.mmap] = []
        self._shards: list[NDArray[Any]] = []
        bucket_first_shard = []
        _allow_open_files(sum(info.num_shards(level) for info in self.manifest.buckets))
        for bucket, info in enumerate(self.manifest.buckets):
            bucket_first_shard.append(len(self._shards))
            for shard in range(info.num_shards(level)):
                self._shards.append(self._open_shard(cache, bucket, shard))
        samples = self.manifest.samples
        buckets = np.array([sample.bucket for sample in samples], dtype=np.int64)
        rows = np.array([sample.row for sample in samples], dtype=np.int64)
        per_shard = np.array(
            [info.samples_per_shard[level] for info in self.manifest.buckets], dtype=np.int64
        )[buckets]
        self._shard_of = np.array(bucket_first_shard, dtype=np.int64)[buckets] + rows // per_shard
        self._row_of = rows % per_shard

    @property
    def num_samples(self) -> int:
        """Number of images."""
        return len(self.manifest.samples)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Stored dtype, float16 or float32."""
        return np.dtype(self.manifest.dtype)

    def shape(self, index: int) -> tuple[int, int, int]:
        """Return (H, W, C) of a sample."""
        return self.manifest.sample_shape(self.info.index, self.manifest.samples[index].bucket)

    def sample(self, index: int) -> NDArray[Any]:
        """Return a read-only view [H, W, C] of a sample in its stored dtype; no copy is made."""
        view: NDArray[Any] = self._shards[self._shard_of[index]][self._row_of[index]]
        return view

    def close(self) -> None:
        """Unmap the files; views handed out before must not be used any more."""
        self._shards.clear()
        for mapped in self._maps:
            try:
                mapped.close()
            except BufferError:
                # Somebody still holds a view: the map goes away with it.
                continue
        self._maps.clear()

    def __enter__(self) -> LevelReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_shard(self, cache: Path, bucket: int, shard: int) -> NDArray[Any]:
        """Map a shard; return it as [n, H, W, C]."""
        manifest, level = self.manifest, self.info.index
        store = STORES[manifest.container]
        path = store.shard_path(cache, manifest, level, bucket, shard)
        rows = rows_of_shard(manifest, level, bucket, shard)
        capacity = manifest.buckets[bucket].samples_per_shard[level]
        sample_bytes = manifest.sample_bytes(level, bucket)
        try:
            offsets = store.shard_offsets(path, len(rows), capacity, sample_bytes)
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise CacheError(
                f"{path}: missing: the cache is incomplete: "
                f"run extract-features --split {manifest.split} again"
            ) from None
        except (CacheError, ValueError) as error:
            raise CacheError(
                f"level {level}, {error}: remove that file and run "
                f"extract-features --split {manifest.split} again"
            ) from error
        except OSError as error:
            raise CacheError(f"{path}: cannot be read ({error.strerror or error})") from error
        self._maps.append(mapped)
        step = int(offsets[1] - offsets[0]) if len(offsets) > 1 else sample_bytes
        if (np.diff(offsets) != step).any():
            raise CacheError(f"{path}: samples are not evenly spaced: it was not written by us")
        height, width, channels = manifest.sample_shape(level, bucket)
        size = self.dtype.itemsize
        return np.ndarray(
            (len(rows), height, width, channels),
            dtype=self.dtype,
            buffer=mapped,
            offset=int(offsets[0]),
            strides=(step, width * channels * size, channels * size, size),
        )


def _allow_open_files(count: int) -> None:
    """Raise this process's soft limit: each mapped file keeps a descriptor, 1024 are the usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + count
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _read_statistics(cache: Path, level: int) -> ChannelStatistics:
    path = statistics_path(cache, level)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CacheError(
            f"{cache}: the extraction has not finished: "
            f"run extract-features --split {cache.name} again, it goes on where it stopped"
        ) from None
    try:
        return ChannelStatistics.from_json(text)
    except CacheError as error:
        raise CacheError(f"{path}: {error}: remove it and run extract-features again") from error
