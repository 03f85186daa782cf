"""Anchor: the values as float16, their bytes packed by zstd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.errors import CacheError
from data.reading.level_reader import LevelReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Float16Codec:
    """Channel after channel, all low bytes before all high bytes: zstd finds most that way."""

    kind: ClassVar[str] = "float16"

    zstd_level: int
    num_channels: int

    @property
    def point(self) -> str:
        """The rate point in words."""
        return f"zstd level {self.zstd_level}"

    def encode(self, values: NDArray[Any]) -> bytes:
        """Return the packed bytes of one map, float [H, W, C]; beyond float16's range it clips."""
        import zstandard

        limit = np.finfo(np.float16).max
        halves = np.clip(values, -limit, limit).transpose(2, 0, 1).astype("<f2", order="C")
        planes = halves.reshape(-1).view(np.uint8).reshape(-1, 2).T
        return zstandard.ZstdCompressor(level=self.zstd_level).compress(planes.tobytes())

    def decode(self, payload: bytes, size_hw: tuple[int, int]) -> NDArray[Any]:
        """Return float32 [H, W, C], exactly what was encoded if that was float16.

        Raises CacheError if the payload is damaged or of another size.
        """
        import zstandard

        height, width = size_hw
        num_bytes = 2 * height * width * self.num_channels
        try:
            unpacked = zstandard.ZstdDecompressor().decompress(payload, max_output_size=num_bytes)
        except zstandard.ZstdError as error:
            raise _damaged(str(error)) from error
        if len(unpacked) != num_bytes:
            raise _damaged(f"{len(unpacked)} bytes, not {num_bytes}")
        pairs = np.frombuffer(unpacked, dtype=np.uint8).reshape(2, -1).T
        halves = np.ascontiguousarray(pairs).reshape(-1).view("<f2")
        maps = halves.reshape(self.num_channels, height, width).astype(np.float32)
        return np.ascontiguousarray(maps.transpose(1, 2, 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Float16Anchor:
    """One codec: it is lossless, so it has one rate point."""

    zstd_level: int = 9
    """Level 19 takes 25 times as long for half a percent."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return "float16 + zstd"

    @property
    def points(self) -> tuple[dict[str, Any], ...]:
        """The one rate point's settings."""
        return ({"zstd_level": self.zstd_level},)

    def unavailable(self) -> str | None:
        """Say what to install if the package zstandard is missing."""
        try:
            import zstandard  # noqa: F401
        except ImportError:
            return f"{self.name}: the package zstandard is missing: pip install zstandard"
        return None

    def fit(self, reader: LevelReader, _indices: Sequence[int]) -> tuple[Float16Codec, ...]:
        """Take the level's number of channels; nothing is learned from the samples."""
        return (Float16Codec(zstd_level=self.zstd_level, num_channels=reader.info.num_channels),)


def _damaged(problem: str) -> CacheError:
    return CacheError(f"float16 values are damaged ({problem}): compress the features again")
