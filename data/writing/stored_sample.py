"""One computed map as it is stored: cast, laid out channels last, with checksum and statistics.

On a GPU `stored_maps` does so where the map was computed: half the bytes of float32 leave it, in
the file's order, and a few sums. On a CPU `SampleCaster` does the same several times as fast, to
the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import CacheError
from data.cache.channel_statistics import ChannelStatistics
from data.cache.commit_log import checksum
from data.coding.byte_code import ByteCode

STORED_DTYPES = {"float16": torch.float16, "float32": torch.float32}
"""What `stored_maps` makes; maps of other stored types are cast by `SampleCaster`."""

_NUM_SUMS = 7
_VALUES_AT_ONCE = 2**25  # 256 MiB as float64, in which they are summed up


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


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredMap:
    """A map that was stored by `stored_maps`, and has come to the CPU."""

    values: Tensor
    """[H, W, C] of the stored type, contiguous."""
    sums: NDArray[Any]
    """float64 [C, 7], as of `stored_maps`."""
    summed_on: str
    """The kind of device."""

    def sample(self, level: int) -> StoredSample:
        """Return what is written of it. Raises CacheError if a value was not finite, or too large.

        `content` is the map's own memory.
        """
        mean, m2, minimum, maximum, squared_error, largest_error, magnitude = self.sums.T.copy()
        values = self.values.numpy()
        if not np.isfinite(mean).all():
            raise unstorable(float(magnitude.max()), level, values.dtype)
        content = values.reshape(-1).data.cast("B")
        return StoredSample(
            content=content,
            checksum=f"{checksum(content):016x}",
            statistics=ChannelStatistics(
                count=values.shape[0] * values.shape[1],
                mean=mean,
                m2=m2,
                minimum=minimum,
                maximum=maximum,
                cast_squared_error=float(squared_error.sum()),
                cast_max_error=float(largest_error.max()),
                summed_on=self.summed_on,
            ),
        )


def stored_maps(features: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cast float32 [B, C, H, W] to the nearest values of `dtype`, ties to even, as [B, H, W, C].

    Returns them with their sums, float64 [B, C, 7], both on the features' device: of the stored
    values the mean, the squared differences from it, minimum and maximum; the cast's squared error
    and its largest one; and the largest magnitude that was computed. What is not finite, or too
    large for `dtype`, shows as a mean that is not finite.
    """
    num_maps, num_channels, height, width = features.shape
    values = features.new_empty((num_maps, height, width, num_channels), dtype=dtype)
    sums = features.new_empty((num_maps, num_channels, _NUM_SUMS), dtype=torch.float64)
    at_once = max(1, _VALUES_AT_ONCE // (num_channels * height * width))
    for first in range(0, num_maps, at_once):
        part = slice(first, first + at_once)
        computed = features[part].permute(0, 2, 3, 1)
        values[part] = computed
        sums[part] = _sums(values[part], computed)
    return values, sums


def _sums(values: Tensor, computed: Tensor) -> Tensor:
    """Return the sums of maps [B, H, W, C] each, float64 [B, C, 7]."""
    places = (1, 2)
    exact = values.double()
    variance, mean = torch.var_mean(exact, places, correction=0)
    minimum, maximum = exact.amin(places), exact.amax(places)
    error = exact.sub_(computed).abs_()
    largest_error = error.amax(places)
    squared_error = error.square_().sum(places)
    magnitude = torch.linalg.vector_norm(computed, float("inf"), places).double()
    m2 = variance * (values.shape[1] * values.shape[2])
    found = [mean, m2, minimum, maximum, squared_error, largest_error, magnitude]
    return torch.stack(found, dim=-1)
