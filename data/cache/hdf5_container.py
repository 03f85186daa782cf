"""HDF5 container: one file per shard with a chunked dataset `features`, one chunk per sample.

The file's structure is written whole at creation (early allocation), so that samples can then be
written straight to their places: a crash leaves a file that is well formed, if not yet filled.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from configs.errors import CacheError
from configs.given_files import regular
from data.cache.manifest import Manifest
from data.system.array_files import lie_apart

# A file that is there is whole, and a cache has one writer: HDF5's own locks would only refuse what
# somebody else has open, and all files where the file system has no locks.
_NO_LOCKS = False
_ERRNO = re.compile(r"errno = (\d+)")
_OF_A_DAMAGED_FILE = (errno.EINVAL, errno.EOVERFLOW)  # offsets beyond any file


def level_folder(cache: Path, level: int) -> Path:
    """Return the folder of a level's shards."""
    return cache / f"level_{level}"


def shard_path(cache: Path, manifest: Manifest, level: int, bucket: int, shard: int) -> Path:
    """Return the file of one shard."""
    name = manifest.buckets[bucket].array_name
    return level_folder(cache, level) / name / f"shard-{shard:05d}.h5"


def level_metadata(
    cache: Path, manifest: Manifest, level: int, attributes: dict[str, Any],
    beside: Mapping[str, NDArray[Any]],
) -> dict[Path, bytes]:  # fmt: skip
    """Return a README.txt of the attributes; the shards carry them too, and the arrays beside."""
    del beside
    lines = [f"{key}: {value}" for key, value in attributes.items()]
    return {level_folder(cache, level) / "README.txt": ("\n".join(lines) + "\n").encode()}


def former_metadata(files: dict[Path, bytes]) -> dict[Path, bytes]:
    """Return `level_metadata` as versions before wrote it, which is as this one does."""
    return files


def create_shard(
    path: Path,
    num_samples: int,
    capacity: int,
    shape: tuple[int, int, int],
    dtype: str,
    attributes: dict[str, Any],
    beside: Mapping[str, NDArray[Any]],
) -> NDArray[Any]:
    """Lay out an empty shard file; return each sample's byte offset, int64 [n].

    The arrays `beside` the samples are datasets of their own.
    """
    space = h5py.h5s.create_simple((num_samples, *shape))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *shape))
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    # Without this the file would hold the time of day and no two extractions would be equal.
    properties.set_obj_track_times(False)
    with h5py.File(path, "w", libver="latest", locking=_NO_LOCKS) as file:
        kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
        identifier = h5py.h5d.create(file.id, b"features", kind, space, properties)
        dataset = h5py.Dataset(identifier)
        for axis, label in enumerate(("sample", "height", "width", "channel")):
            dataset.dims[axis].label = label
        for key, value in attributes.items():
            if value is not None:
                dataset.attrs[key] = value
        for name, values in beside.items():
            file.create_dataset(name, data=values.astype("<f4"), track_times=False)
    sample_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    offsets = shard_offsets(path, num_samples, capacity, sample_bytes)
    with path.open("r+b") as file:
        file.truncate(max(path.stat().st_size, int(offsets[-1]) + sample_bytes))
    return offsets


def holds_arrays(path: Path, beside: Mapping[str, NDArray[Any]]) -> bool:
    """Say whether a shard holds these arrays; of one whose `shard_offsets` could be read."""
    if not beside:
        return True
    try:
        with h5py.File(regular(path), "r", locking=_NO_LOCKS) as file:
            return all(_holds(file, name, values) for name, values in beside.items())
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if (refusal := _refusal_of_system(error, path)) is not None:
            raise refusal from error
        return False


def shard_offsets(path: Path, num_samples: int, capacity: int, sample_bytes: int) -> NDArray[Any]:
    """Read a shard's chunk index; return sample byte offsets, int64 [n]. CacheError if damaged.

    OSError if the system refuses it, which says nothing of what it holds.
    """
    del capacity  # HDF5 knows the number of chunks itself
    found: dict[int, int] = {}
    try:
        with h5py.File(regular(path), "r", locking=_NO_LOCKS) as file:
            dataset = _own_dataset(file, "features")
            if (
                dataset is None
                or not dataset.chunks
                or dataset.shape[0] != num_samples
                or dataset.id.get_create_plist().get_nfilters()
            ):
                raise CacheError(f"{path}: the shard is of another shape")

            def note(chunk: Any) -> None:
                if chunk.size == sample_bytes:
                    found[chunk.chunk_offset[0]] = chunk.byte_offset

            dataset.id.chunk_iter(note)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if (refusal := _refusal_of_system(error, path)) is not None:
            raise refusal from error
        raise CacheError(f"{path}: the shard is damaged: {error}") from error
    offsets = [found.get(row, -1) for row in range(num_samples)]
    if not lie_apart(offsets, sample_bytes, path.stat().st_size):
        raise CacheError(f"{path}: the shard is truncated or of another shape")
    return np.array(offsets, dtype=np.int64)


def around_samples(size: int, other_bytes: int) -> list[int]:
    """Return where to read `other_bytes` each of a shard's `size`, for all that is no sample.

    The samples follow one upon the other, and the rest lies on both sides of them.
    """
    return [0, size - other_bytes]


def _own_dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Return a dataset whose values lie in this very file, and nowhere a link of it leads."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    found = file[name]
    is_own = isinstance(found, h5py.Dataset) and not (found.external or found.is_virtual)
    return found if is_own else None


def _holds(file: h5py.File, name: str, values: NDArray[Any]) -> bool:
    dataset = _own_dataset(file, name)
    return (
        dataset is not None
        and (dataset.shape, dataset.dtype) == (values.shape, np.dtype("<f4"))
        and bool(np.array_equal(dataset, values))
    )


def _refusal_of_system(error: Exception, path: Path) -> OSError | None:
    """Return the system's own error behind one of HDF5's; None if the file is to blame.

    HDF5 names its number in the text alone where h5py makes a RuntimeError of it.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _ERRNO.search(str(error))):
        number = int(found[1])
    if number in (None, 0, *_OF_A_DAMAGED_FILE):
        return None
    return OSError(number, os.strerror(number), str(path))
