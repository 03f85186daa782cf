"""One computed map as it is stored: cast, laid out channels last, with checksum and statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.errors import CacheError
from data.cache.channel_statistics import ChannelStatistics
from data.cache.commit_log import checksum

_CHANNELS = 32
_BLOCK_VALUES = 2**18  # what fits into the processor's cache; but no less than 32 channels


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
        self._dtype = getattr(torch, dtype)
        self._stored, self._halves = _Memory(self._dtype), _Memory(torch.float16)
        self._nearest, self._joined = _Memory(torch.float32), _Memory(torch.int64)

    def cast(self, computed: Tensor, level: int) -> StoredSample:
        """Cast one map, float32 [H, W, C]; `content` is valid until the next call.

        Raises CacheError if a value does not fit the dtype, or is not finite.
        """
        height, width, channels = computed.shape
        # In the backbone's own layout a channel's values lie side by side: this is no copy then.
        by_channel = computed.permute(2, 0, 1).reshape(channels, -1)
        stored = self._stored.shaped(height * width, channels)
        statistics = self._store(by_channel, stored)
        if not np.isfinite(statistics.mean).all():
            magnitude = float(computed.abs().max())
            dtype = str(self._dtype).removeprefix("torch.")
            raise CacheError(
                f"level {level}: a feature of magnitude {magnitude:.4g} does not fit "
                f"{dtype}: run with --dtype float32"
                if magnitude < float("inf")
                else f"level {level}: the detector computed infinite or NaN features: "
                "check its weights"
            )
        content = stored.numpy().data.cast("B")
        return StoredSample(
            content=content, checksum=f"{checksum(content):016x}", statistics=statistics
        )

    def _store(self, by_channel: Tensor, stored: Tensor) -> ChannelStatistics:
        """Fill `stored` [n, C] from float32 [C, n], some channels at a time; return statistics."""
        # Late, since importing Numba takes longer than many a command that writes no cache.
        from data.writing.cast_kernel import WORDS, channel_sums, transpose_halves

        num_channels, num_positions = by_channel.shape
        step = max(1, _BLOCK_VALUES // num_positions // _CHANNELS) * _CHANNELS
        sums, extremes = [], []
        for first in range(0, num_channels, step):
            computed, columns = by_channel[first : first + step], stored[:, first : first + step]
            rows = nearest = computed
            if self._dtype is torch.float16:
                rows = self._halves.shaped(*computed.shape).copy_(computed)
                nearest = self._nearest.shaped(*computed.shape).copy_(rows)
            found = channel_sums(nearest.numpy(), computed.numpy())
            sums.append(found[0])
            extremes.append(found[1])
            if self._dtype is torch.float16 and num_channels % 4 == 0:
                joined = self._joined.shaped(WORDS, num_positions)
                transpose_halves(rows.numpy(), columns.numpy(), joined.numpy())
            else:
                columns.copy_(rows.T)
        mean, m2, squared_error = np.concatenate(sums).T
        minimum, maximum, largest_error = np.concatenate(extremes).T.astype(np.float64)
        return ChannelStatistics(
            count=num_positions,
            mean=mean,
            m2=m2,
            minimum=minimum,
            maximum=maximum,
            cast_squared_error=float(squared_error.sum()),
            cast_max_error=float(largest_error.max()),
        )


class _Memory:
    """Place for one tensor at a time."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._values = torch.empty(0, dtype=dtype)

    def shaped(self, *shape: int) -> Tensor:
        """Return a tensor of that shape, of whatever values; it is valid until the next call."""
        num_values = math.prod(shape)
        if self._values.numel() < num_values:
            self._values = torch.empty(num_values, dtype=self._values.dtype)
        return self._values[:num_values].view(shape)
