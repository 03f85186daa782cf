"""One computed map as it is stored: cast, laid out channels last, with checksum and statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import CacheError
from data.cache.channel_statistics import ChannelStatistics
from data.cache.commit_log import checksum
from data.coding.byte_code import ByteCode


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSample:
    """The bytes of one sample [H, W, C], their XXH3-64 in hexadecimal, and their statistics."""

    content: memoryview
    checksum: str
    statistics: ChannelStatistics


class SampleCaster:
    """Casts map after map to the stored dtype, in memory that it keeps.

    Fresh memory would cost more than the arithmetic: the system hands it out page by page.
    """

    def __init__(self, dtype: str, codes: Mapping[int, ByteCode] = MappingProxyType({})) -> None:
        self._dtype = np.dtype(dtype)
        self._codes = codes
        """Of uint8, level -> its code."""
        self._stored, self._halves = _Memory(self._dtype), _Memory(np.dtype(np.float16))
        self._bytes = _Memory(np.dtype(np.uint8))
        self._joined = _Memory(np.dtype(np.int64))

    def cast(self, computed: Tensor, level: int) -> StoredSample:
        """Cast one map, float32 [H, W, C]; `content` is valid until the next call.

        Raises CacheError if a value does not fit the dtype, or is not finite.
        """
        # In the backbone's own layout a channel's values lie side by side: this is no copy then.
        by_channel = computed.permute(2, 0, 1).flatten(1).numpy()
        stored, statistics = self._store(by_channel, self._codes.get(level))
        # What no dtype holds shows in the error alone where values are clipped.
        if not np.isfinite(statistics.cast_squared_error) or not np.isfinite(statistics.mean).all():
            raise unstorable(float(computed.abs().max()), level, self._dtype)
        content = stored.data.cast("B")
        return StoredSample(
            content=content, checksum=f"{checksum(content):016x}", statistics=statistics
        )

    def _store(
        self, by_channel: NDArray[Any], code: ByteCode | None
    ) -> tuple[NDArray[Any], ChannelStatistics]:
        """Return float32 [C, n] as it is stored, [n, C], and its statistics."""
        # Late, since importing Numba takes longer than many a command that writes no cache.
        from data.writing.byte_kernel import store_bytes
        from data.writing.cast_kernel import CHANNELS, WORDS, channel_sums, store_halves

        num_channels, num_positions = by_channel.shape
        num_clipped = None
        if code is not None:
            stored = self._stored.shaped(num_positions, num_channels)
            memory = self._bytes.shaped(num_channels, num_positions)
            sums, extremes, num_clipped = store_bytes(by_channel, code, stored, memory)
        elif self._dtype == np.float16:
            stored = self._stored.shaped(num_positions, -(-num_channels // 4) * 4)
            halves = self._halves.shaped(CHANNELS, num_positions)
            joined = self._joined.shaped(WORDS, num_positions)
            sums, extremes = store_halves(by_channel, stored, halves, joined)
            stored = np.ascontiguousarray(stored[:, :num_channels])
        else:
            stored = self._stored.shaped(num_positions, num_channels)
            np.copyto(stored, by_channel.T)
            sums, extremes = channel_sums(by_channel)
        mean, m2, squared_error = sums.T
        with np.errstate(invalid="ignore"):  # NaN, which `cast` refuses
            minimum, maximum, largest_error = extremes.T.astype(np.float64)
        return stored, ChannelStatistics(
            count=num_positions,
            mean=mean,
            m2=m2,
            minimum=minimum,
            maximum=maximum,
            cast_squared_error=float(squared_error.sum()),
            cast_max_error=float(largest_error.max()),
            channel_squared_error=None if code is None else squared_error,
            num_clipped=num_clipped,
        )


def unstorable(magnitude: float, level: int, dtype: np.dtype[Any]) -> CacheError:
    """Return the error of a map whose stored values, and so its channels' means, are not finite.

    `magnitude` is the largest that was computed: it says whether the detector or the cast failed.
    """
    return CacheError(
        f"level {level}: a feature of magnitude {magnitude:.4g} does not fit {dtype}: "
        "run with --dtype float32"
        if magnitude < float("inf")
        else f"level {level}: the detector computed infinite or NaN features: check its weights"
    )


class _Memory:
    """Place for one array at a time."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._values = np.empty(0, dtype)

    def shaped(self, *shape: int) -> NDArray[Any]:
        """Return an array of that shape, of whatever values; it is valid until the next call."""
        num_values = math.prod(shape)
        if self._values.size < num_values:
            self._values = np.empty(num_values, self._values.dtype)
        return self._values[:num_values].reshape(shape)
