"""Read one level of a cache: each shard's index once, then samples straight from mapped files."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import CacheError, PassingError
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import read_statistics
from data.cache.commit_log import differing_rows, expected_checksums
from data.cache.containers import STORES, rows_of_shard
from data.cache.manifest_parts import LevelInfo
from data.coding.byte_code import ByteCode
from data.remote.held_level import HeldLevel
from data.system.array_files import MappedFiles, is_remote

_BLOCKS_AHEAD = 4
_AHEAD_BYTES, _MOST_AHEAD = 2**26, 256  # of a remote cache whose samples are read one by one

Verify = Literal["auto", "on_open", "size"]


class LevelReader:
    """One level of a finished cache, as arrays that are read when they are touched.

    Sample i is the image `manifest.samples[i]`. `verify`: check each shard's checksums when it is
    first touched (`on_open`), or only its size and index (`size`); `auto` is `on_open` on network
    file systems. `cache` is a folder, or one that is open already, so that several levels share
    its manifest. Raises CacheError if the level is not stored, not complete, or damaged;
    PassingError if the system refuses a file.
    """

    def __init__(
        self, cache: CacheFolder | Path | str, level: int, *, verify: Verify = "auto"
    ) -> None:
        self.folder = CacheFolder.of(cache)
        self.cache = self.folder.path
        self.manifest = self.folder.manifest
        self.info: LevelInfo = self.manifest.level(level)
        self.statistics = read_statistics(self.cache, self.info)
        self._shards = [
            (bucket, shard)
            for bucket, info in enumerate(self.manifest.buckets)
            for shard in range(info.num_shards(level))
        ]
        self._remote = HeldLevel.of(self.folder, level)  # makes the shards' files, if it has to
        offsets = [self._offsets(bucket, shard) for bucket, shard in self._shards]
        self._files = self._mapped()
        samples, buckets = self.manifest.samples, self.manifest.buckets
        bucket_of = np.array([sample.bucket for sample in samples], dtype=np.int64)
        row_of = np.array([sample.row for sample in samples], dtype=np.int64)
        per_shard = np.array([info.samples_per_shard[level] for info in buckets], dtype=np.int64)
        first_shard = np.cumsum([0, *(info.num_shards(level) for info in buckets)])[:-1]
        first_row = np.cumsum([0, *(len(found) for found in offsets)])[:-1]
        self.shard_of: NDArray[Any] = first_shard[bucket_of] + row_of // per_shard[bucket_of]
        """Which of the level's shards each sample is in, int64 [n]."""
        self._numbers = first_row[self.shard_of] + row_of % per_shard[bucket_of]
        in_file = np.concatenate(offsets)[self._numbers]
        self._starts_bytes = self._files.starts[self.shard_of] + in_file
        self.shapes: NDArray[Any] = np.array(
            [self.manifest.sample_shape(level, bucket) for bucket in range(len(buckets))],
            dtype=np.int64,
        )[bucket_of]
        """(H, W, C) of each sample, int64 [n, 3]."""
        if (self._starts_bytes % self.dtype.itemsize).any():
            raise CacheError(
                f"{self.cache}: level {level}: samples are not aligned: not written by us"
            )
        by_touch = verify == "on_open" or (verify == "auto" and is_remote(self.cache))
        by_touch &= self._remote is None  # what is fetched is checked when it comes
        self._unchecked = np.full(len(self._shards), by_touch)
        self._last = -1

    @property
    def num_samples(self) -> int:
        """Number of images."""
        return len(self.manifest.samples)

    @property
    def content_id(self) -> str:
        """What tells this cache from others with the same plan: see `CacheFolder`."""
        return self.folder.content_id

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Stored dtype: float16, float32, or uint8, whose values `code` tells."""
        return np.dtype(self.manifest.dtype)

    @property
    def blocks_ahead(self) -> int:
        """How many blocks of a stream are read ahead: of a remote cache several, as each waits."""
        return 1 if self._remote is None else _BLOCKS_AHEAD

    @property
    def code(self) -> ByteCode | None:
        """What stored bytes stand for; None where the values themselves are stored."""
        return self.manifest.code(self.info.index)

    @property
    def value_dtype(self) -> np.dtype[np.generic]:
        """Dtype of what `sample` returns: the stored one, or of bytes float32."""
        return self.dtype if self.code is None else np.dtype(np.float32)

    @property
    def files(self) -> MappedFiles:
        """The level's files as one range of bytes."""
        return self._files

    @property
    def starts(self) -> NDArray[Any]:
        """Where each sample begins in `values`, int64 [n]."""
        starts: NDArray[Any] = self._starts_bytes // self.dtype.itemsize
        return starts

    @property
    def values(self) -> NDArray[Any]:
        """All stored values of the level in one range, stored dtype [N], read-only."""
        return self._files.memory[: self._num_values * self.dtype.itemsize].view(self.dtype)

    @property
    def values_to_gather(self) -> Tensor:
        """`values` for torch, which knows no read-only tensors: whoever writes to it dies."""
        dtype = getattr(torch, self.dtype.name)
        return torch.frombuffer(self._files.buffer, dtype=dtype, count=self._num_values)

    @property
    def _num_values(self) -> int:
        return self._files.num_bytes // self.dtype.itemsize

    def shape(self, index: int) -> tuple[int, int, int]:
        """Return (H, W, C) of a sample."""
        return self.manifest.sample_shape(self.info.index, self.manifest.samples[index].bucket)

    def num_values(self, images: range) -> int:
        """Return how many values the maps of these images have."""
        return int(self.shapes[images.start : images.stop].prod(axis=1).sum())

    def sample(self, index: int) -> NDArray[Any]:
        """Return a sample's values [H, W, C]: a read-only view of the file, not a copy.

        Of a remote cache a copy; of one in 8 bits they are decoded: a new array, float32.
        """
        self.require_whole([index])
        start, shape = self._starts_bytes[index], self.shape(index)
        content = self._files.memory[start : start + self._sample_bytes(index)]
        view: NDArray[Any] = content.view(self.dtype).reshape(shape)
        if self._remote is not None:
            view = self._fetched(index, view)
        return view if self.code is None else self.code.decoded(view)

    def copied(self, indices: Sequence[int] | NDArray[Any], copy: Callable[[], None]) -> None:
        """Call what copies samples out of `files` that `require_whole` was called for.

        Of a remote cache again, should others have taken their room meanwhile.
        """
        if self._remote is None:
            copy()
        else:
            self._remote.copied(self._numbers[indices], copy)

    def expect(self, indices: Sequence[int] | NDArray[Any]) -> bool:
        """Have samples of a remote cache come; False if the files alone are to be read ahead."""
        if self._remote is None:
            return False
        self._remote.expect(self._numbers[indices])
        return True

    def _fetched(self, index: int, view: NDArray[Any]) -> NDArray[Any]:
        """Return a copy of a remote sample; those that follow come, as most callers go on so."""
        ahead = min(_MOST_AHEAD, _AHEAD_BYTES // self._sample_bytes(index))
        if index == self._last + 1:
            self.expect(np.arange(index, min(index + 1 + ahead, self.num_samples)))
        self._last = index
        found = np.empty_like(view)
        self.copied([index], lambda: np.copyto(found, view))
        return found

    def require_whole(self, indices: Sequence[int] | NDArray[Any]) -> None:
        """Check the shards of these samples if that is still due; CacheError names the damage.

        Of a remote cache the samples themselves, once they have come.
        """
        if self._remote is not None:
            self._remote.copied(self._numbers[indices], lambda: None)
        if not self._unchecked.any():
            return
        for shard in np.unique(self.shard_of[indices]).tolist():
            if self._unchecked[shard]:
                self._check_shard(shard)
                self._unchecked[shard] = False

    def close(self) -> None:
        """Let go of the files; they stay mapped as long as a view of them is in use."""
        if self._remote is not None:
            self._remote.close()
        self.__dict__.pop("_files", None)

    def __enter__(self) -> LevelReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _sample_bytes(self, index: int) -> int:
        return self.manifest.sample_bytes(self.info.index, self.manifest.samples[index].bucket)

    def _shard_path(self, bucket: int, shard: int) -> Path:
        store = STORES[self.manifest.container]
        return store.shard_path(self.cache, self.manifest, self.info.index, bucket, shard)

    def _offsets(self, bucket: int, shard: int) -> NDArray[Any]:
        """Read a shard's index: each sample's byte offset in its file, int64 [n]."""
        manifest, level = self.manifest, self.info.index
        path = self._shard_path(bucket, shard)
        rows = rows_of_shard(manifest, level, bucket, shard)
        capacity = manifest.buckets[bucket].samples_per_shard[level]
        try:
            return STORES[manifest.container].shard_offsets(
                path, len(rows), capacity, manifest.sample_bytes(level, bucket)
            )
        except FileNotFoundError:
            raise CacheError(
                f"{path}: missing: the cache is incomplete: "
                f"run extract-features --split {manifest.split} again"
            ) from None
        except CacheError as error:
            raise CacheError(
                f"level {level}, {error}: run extract-features --split {manifest.split} again, "
                "it mends what is broken"
            ) from error
        except OSError as error:
            raise PassingError.reading(path, error) from error

    def _mapped(self) -> MappedFiles:
        try:
            return MappedFiles([self._shard_path(*shard) for shard in self._shards])
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise PassingError.reading(error.filename or self.cache, error) from error
            raise CacheError(
                f"{error.filename or self.cache}: cannot be mapped ({error.strerror}): "
                "fewer, larger shards (cache.shard_megabytes) need fewer mappings"
            ) from error

    @cached_property
    def _expected(self) -> list[list[int | None]]:
        """Every sample's committed checksum; once, as the log of a large cache takes its time."""
        return expected_checksums(self.manifest, self.folder.commits, self.info.index)

    def _check_shard(self, number: int) -> None:
        """Compare a shard's samples with their committed checksums; CacheError if one differs."""
        manifest, level = self.manifest, self.info.index
        bucket, shard = self._shards[number]
        members = np.flatnonzero(self.shard_of == number)
        rows = [manifest.samples[index].row for index in members]
        expected = self._expected[bucket]
        damaged = differing_rows(
            self._files.memory,
            self._starts_bytes[members].tolist(),
            manifest.sample_bytes(level, bucket),
            [expected[row] for row in rows],
        )
        if damaged:
            names = ", ".join(manifest.samples[members[i]].file for i in damaged[:3])
            raise CacheError(
                f"level {level}, {self._shard_path(bucket, shard)}: {len(damaged)} of "
                f"{len(rows)} samples are damaged ({names}): run extract-features --split "
                f"{manifest.split} --verify, then without --verify to mend it"
            )
