"""Zarr v3 container: one group per level, one sharded array per bucket, one file per shard.

Shards are written by hand, as zarr's sharding codec lays them out: the samples one after another,
then the index of (offset, bytes) pairs and its CRC-32C. Any Zarr v3 reader opens them.
Specification: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from configs.errors import CacheError
from configs.given_files import regular
from configs.plain_json import parse_json
from data.cache.manifest import Manifest
from data.system.array_files import lie_apart

_NAME = "zarr.json"
_AXES = ("sample", "height", "width", "channel")
_ABSENT = np.uint64(2**64 - 1)
_CRC_BYTES = 4


def level_folder(cache: Path, level: int) -> Path:
    """Return the folder of a level's Zarr group."""
    return cache / f"level_{level}.zarr"


def shard_path(cache: Path, manifest: Manifest, level: int, bucket: int, shard: int) -> Path:
    """Return the file of one shard."""
    name = manifest.buckets[bucket].array_name
    return level_folder(cache, level) / name / f"c.{shard}.0.0.0"


def level_metadata(
    cache: Path, manifest: Manifest, level: int, attributes: dict[str, Any],
    beside: Mapping[str, NDArray[Any]],
) -> dict[Path, bytes]:  # fmt: skip
    """Return the files, and what they hold, that make a level's folder a Zarr group of arrays.

    The arrays `beside` the samples are whole in them: float32 [C] each.
    """
    folder = level_folder(cache, level)
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    files = {folder / _NAME: json.dumps(group, indent=1).encode()}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    for number, bucket in enumerate(manifest.buckets):
        shape = list(manifest.sample_shape(level, number))
        sharding = {
            "chunk_shape": [1, *shape],
            # The order of bytes says nothing of a value that is one.
            "codecs": [little if manifest.value_bytes > 1 else {"name": "bytes"}],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        array = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [bucket.num_samples, *shape],
            "data_type": manifest.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [bucket.samples_per_shard[level], *shape]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0 if manifest.dtype == "uint8" else 0.0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            # xarray takes a group for one data set, in which a dimension has one size.
            "dimension_names": [*(f"{name}_{bucket.array_name}" for name in _AXES[:3]), _AXES[3]],
            "attributes": attributes | {"input_size_px": [bucket.height_px, bucket.width_px]},
        }
        files[folder / bucket.array_name / _NAME] = json.dumps(array, indent=1).encode()
    for name, values in beside.items():
        array = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [len(values)],
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [len(values)]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0.0,
            "codecs": [little],
            "dimension_names": [_AXES[3]],
            "attributes": {},
        }
        files[folder / name / _NAME] = json.dumps(array, indent=1).encode()
        files[folder / name / "c.0"] = values.astype("<f4").tobytes()
    return files


def former_metadata(files: dict[Path, bytes]) -> dict[Path, bytes]:
    """Return `level_metadata` as versions before wrote it: with one name for all buckets' axes."""
    former = dict(files)
    for path, content in files.items():
        array = parse_json(content) if path.name == _NAME else {}
        if len(array.get("dimension_names", ())) == len(_AXES):
            array["dimension_names"] = _AXES
            former[path] = json.dumps(array, indent=1).encode()
    return former


def create_shard(
    path: Path,
    num_samples: int,
    capacity: int,
    shape: tuple[int, int, int],
    dtype: str,
    attributes: dict[str, Any],
    beside: Mapping[str, NDArray[Any]],
) -> NDArray[Any]:
    """Lay out an empty shard file, index included; return each sample's byte offset, int64 [n]."""
    del attributes, beside  # the level's metadata has them
    sample_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    index = np.full((capacity, 2), _ABSENT, dtype="<u8")
    index[:num_samples, 0] = np.arange(num_samples, dtype=np.uint64) * np.uint64(sample_bytes)
    index[:num_samples, 1] = sample_bytes
    encoded = index.tobytes()
    crc = google_crc32c.value(encoded).to_bytes(_CRC_BYTES, "little")
    with path.open("wb") as file:
        file.seek(num_samples * sample_bytes)
        file.write(encoded + crc)
    return index[:num_samples, 0].astype(np.int64)


def holds_arrays(path: Path, beside: Mapping[str, NDArray[Any]]) -> bool:
    """Say whether a shard holds these arrays as it should: the level has them, no shard."""
    del path, beside
    return True


def shard_offsets(path: Path, num_samples: int, capacity: int, sample_bytes: int) -> NDArray[Any]:
    """Read a shard's index; return each sample's byte offset, int64 [n]. CacheError if damaged."""
    index_bytes = capacity * 16 + _CRC_BYTES
    with regular(path).open("rb") as file:
        file_bytes = file.seek(0, 2)
        file.seek(max(0, file_bytes - index_bytes))
        footer = file.read(index_bytes)
    encoded, crc = footer[:-_CRC_BYTES], footer[-_CRC_BYTES:]
    if len(footer) != index_bytes or google_crc32c.value(encoded) != int.from_bytes(crc, "little"):
        raise CacheError(f"{path}: the shard's index is damaged")
    index = np.frombuffer(encoded, dtype="<u8").reshape(capacity, 2)[:num_samples]
    if (index[:, 1] != sample_bytes).any() or not lie_apart(
        index[:, 0].tolist(), sample_bytes, file_bytes - index_bytes
    ):
        raise CacheError(f"{path}: the shard is truncated or of another shape")
    return index[:, 0].astype(np.int64)


def around_samples(size: int, other_bytes: int) -> list[int]:
    """Return where to read `other_bytes` each of a shard's `size`, for all that is no sample.

    That is the index, which is the end.
    """
    return [size - other_bytes]
