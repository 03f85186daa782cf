"""One computed map as it is stored: cast, laid out channels last, with checksum and statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import CacheError
from data.cache.channel_statistics import ChannelStatistics
from data.cache.commit_log import checksum


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

    def __init__(self, dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._stored, self._halves = _Memory(self._dtype), _Memory(np.dtype(np.float16))
        self._joined = _Memory(np.dtype(np.int64))

    def cast(self, computed: Tensor, level: int) -> StoredSample:
        """Cast one map, float32 [H, W, C]; `content` is valid until the next call.

        Raises CacheError if a value does not fit the dtype, or is not finite.
        """
        # In the backbone's own layout a channel's values lie side by side: this is no copy then.
        by_channel = computed.permute(2, 0, 1).flatten(1).numpy()
        stored, statistics = self._store(by_channel)
        if not np.isfinite(statistics.mean).all():
            require_finite(statistics.mean, float(computed.abs().max()), level, self._dtype)
        content = stored.data.cast("B")
        return StoredSample(
            content=content, checksum=f"{checksum(content):016x}", statistics=statistics
        )

    def _store(self, by_channel: NDArray[Any]) -> tuple[NDArray[Any], ChannelStatistics]:
        """Return float32 [C, n] as it is stored, [n, C], and its statistics."""
        # Late, since importing Numba takes longer than many a command that writes no cache.
        from data.writing.cast_kernel import CHANNELS, WORDS, channel_sums, store_halves

        num_channels, num_positions = by_channel.shape
        if self._dtype == np.float16:
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
        )


def require_finite(mean: NDArray[Any], magnitude: float, level: int, dtype: np.dtype[Any]) -> None:
    """Raise CacheError unless all stored values are finite, as their channels' means then are.

    `magnitude` is the largest that was computed: it says whether the detector or the cast failed.
    """
    if np.isfinite(mean).all():
        return
    raise CacheError(
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
