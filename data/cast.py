"""One computed map as it is stored: cast, laid out channels last, with checksum and statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.errors import CacheError
from data.checksums import checksum
from data.statistics import ChannelStatistics, statistics_of


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
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._cast = torch.empty(0, dtype=self._dtype)
        self._stored = torch.empty(0, dtype=self._dtype)

    def cast(self, computed: Tensor, level: int) -> StoredSample:
        """Cast one map, float32 [H, W, C]; `content` is valid until the next call.

        Raises CacheError if a value does not fit the dtype, or is not finite.
        """
        # In the backbone's own layout reductions over a channel's positions are fast, and the one
        # transpose, a plain 2-D one, is of half as many bytes.
        height, width, channels = computed.shape
        by_channel = computed.permute(2, 0, 1).flatten(1)
        if self._cast.numel() < by_channel.numel():
            self._cast = torch.empty(by_channel.numel(), dtype=self._dtype)
            self._stored = torch.empty(by_channel.numel(), dtype=self._dtype)
        cast = self._cast[: by_channel.numel()].view(channels, height * width)
        cast.copy_(by_channel)
        statistics = statistics_of(cast, by_channel)
        if not (np.isfinite(statistics.minimum).all() and np.isfinite(statistics.maximum).all()):
            largest = float(computed.abs().max())
            raise CacheError(
                f"level {level}: a feature of magnitude {largest:.4g} does not fit "
                f"{str(self._dtype).removeprefix('torch.')}: run with --dtype float32"
                if largest < float("inf")
                else f"level {level}: the detector computed infinite or NaN features: "
                "check its weights"
            )
        stored = self._stored[: by_channel.numel()].view(height * width, channels)
        stored.copy_(cast.t())
        content = stored.numpy().data.cast("B")
        return StoredSample(
            content=content, checksum=f"{checksum(content):016x}", statistics=statistics
        )
