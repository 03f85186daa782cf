"""The two containers behind one contract: lay out a shard, list the byte ranges of a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from data import hdf5_store, zarr_store
from data.manifest import Manifest


class Store(Protocol):
    """What a container module offers; see `data.zarr_store` for the meaning of each function."""

    def level_folder(self, cache: Path, level: int) -> Path: ...

    def shard_path(
        self, cache: Path, manifest: Manifest, level: int, bucket: int, shard: int
    ) -> Path: ...

    def create_level(
        self, cache: Path, manifest: Manifest, level: int, attributes: dict[str, Any]
    ) -> None: ...

    def create_shard(
        self,
        path: Path,
        num_samples: int,
        capacity: int,
        shape: tuple[int, int, int],
        dtype: str,
        attributes: dict[str, Any],
    ) -> NDArray[Any]: ...

    def shard_offsets(
        self, path: Path, num_samples: int, capacity: int, sample_bytes: int
    ) -> NDArray[Any]: ...


STORES: dict[str, Store] = {"zarr": zarr_store, "hdf5": hdf5_store}


def rows_of_shard(manifest: Manifest, level: int, bucket: int, shard: int) -> range:
    """Return the rows of a bucket that one of its shards holds."""
    info = manifest.buckets[bucket]
    first = shard * info.samples_per_shard[level]
    return range(first, min(first + info.samples_per_shard[level], info.num_samples))
