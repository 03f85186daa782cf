"""The two containers behind one contract: lay out a shard, list the byte ranges of a shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.errors import PassingError
from configs.given_files import regular
from data.cache import hdf5_container, zarr_container
from data.cache.manifest import Manifest


class Store(Protocol):
    """What a container module offers; `data.cache.zarr_container` says what each function means."""

    def level_folder(self, cache: Path, level: int) -> Path: ...

    def shard_path(
        self, cache: Path, manifest: Manifest, level: int, bucket: int, shard: int
    ) -> Path: ...

    def level_metadata(
        self, cache: Path, manifest: Manifest, level: int, attributes: dict[str, Any],
        beside: Mapping[str, NDArray[Any]],
    ) -> dict[Path, bytes]: ...  # fmt: skip

    def former_metadata(self, files: dict[Path, bytes]) -> dict[Path, bytes]: ...

    def create_shard(
        self,
        path: Path,
        num_samples: int,
        capacity: int,
        shape: tuple[int, int, int],
        dtype: str,
        attributes: dict[str, Any],
        beside: Mapping[str, NDArray[Any]],
    ) -> NDArray[Any]: ...

    def shard_offsets(
        self, path: Path, num_samples: int, capacity: int, sample_bytes: int
    ) -> NDArray[Any]: ...

    def around_samples(self, size: int, other_bytes: int) -> list[int]: ...

    def holds_arrays(self, path: Path, beside: Mapping[str, NDArray[Any]]) -> bool: ...


STORES: dict[str, Store] = {"zarr": zarr_container, "hdf5": hdf5_container}


def level_attributes(manifest: Manifest, level: int) -> dict[str, Any]:
    """Return what a level's arrays or datasets say of themselves."""
    info = manifest.level(level)
    in_bytes = {"value": "stored * scale + offset, float32, per channel"}
    return {
        "level": info.index,
        "key": info.key,
        "stride_px": info.stride_px,
        "units": "detector feature value (dimensionless)",
        "detector": manifest.detector.get("builder"),
        **(in_bytes if manifest.dtype == "uint8" else {}),
    }


def level_arrays(manifest: Manifest, level: int) -> dict[str, NDArray[Any]]:
    """Return what has to lie beside a level's samples for them to be understood, float32 [C].

    Of a plan whose codes are not known yet, arrays of their size.
    """
    if manifest.dtype != "uint8":
        return {}
    code = manifest.code(level)
    unknown = np.zeros(manifest.level(level).num_channels, np.float32)
    return {
        "scale": unknown if code is None else code.scales,
        "offset": unknown if code is None else code.offsets,
    }


def level_metadata(cache: Path, manifest: Manifest, level: int) -> dict[Path, bytes]:
    """Return the files beside a level's shards, and what they hold."""
    store = STORES[manifest.container]
    return store.level_metadata(
        cache, manifest, level, level_attributes(manifest, level), level_arrays(manifest, level)
    )


def differing_metadata(cache: Path, manifest: Manifest, level: int) -> dict[Path, bytes]:
    """Return those of the level's metadata files that are missing or hold something else.

    What a version before wrote means the same, and stays. Raises PassingError if the system refuses
    one.
    """
    wanted = level_metadata(cache, manifest, level)
    former = STORES[manifest.container].former_metadata(wanted)
    return {
        path: content
        for path, content in wanted.items()
        if _content_of(path) not in (content, former[path])
    }


def _content_of(path: Path) -> bytes | None:
    try:
        return regular(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise PassingError.reading(path, error) from error


def rows_of_shard(manifest: Manifest, level: int, bucket: int, shard: int) -> range:
    """Return the rows of a bucket that one of its shards holds."""
    info = manifest.buckets[bucket]
    first = shard * info.samples_per_shard[level]
    return range(first, min(first + info.samples_per_shard[level], info.num_samples))


def shards_of(manifest: Manifest) -> Iterator[tuple[int, int, int]]:
    """Yield (level, bucket, shard) of the whole plan."""
    for level in manifest.levels:
        for bucket, info in enumerate(manifest.buckets):
            for shard in range(info.num_shards(level.index)):
                yield level.index, bucket, shard
