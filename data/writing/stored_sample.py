"""One computed map as it is stored: cast, laid out channels last, with checksum and statistics."""

from __future__ import annotations

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
        self._memory: NDArray[Any] = np.empty(0, dtype=dtype)

    def cast(self, computed: Tensor, level: int) -> StoredSample:
        """Cast one map, float32 [H, W, C]; `content` is valid until the next call.

        Raises CacheError if a value does not fit the dtype, or is not finite.
        """
        # Late, since importing Numba takes longer than many a command that writes no cache.
        from data.writing.cast_kernel import store_map

        height, width, channels = computed.shape
        # In the backbone's own layout a channel's values lie side by side: this is no copy then.
        by_channel = computed.numpy().transpose(2, 0, 1).reshape(channels, -1)
        if self._memory.size < by_channel.size:
            self._memory = np.empty(by_channel.size, dtype=self._memory.dtype)
        stored = self._memory[: by_channel.size].reshape(height * width, channels)
        mean, m2, minimum, maximum, squared, largest = store_map(by_channel, stored)
        if not np.isfinite(mean).all():
            magnitude = float(computed.abs().max())
            raise CacheError(
                f"level {level}: a feature of magnitude {magnitude:.4g} does not fit "
                f"{stored.dtype}: run with --dtype float32"
                if magnitude < float("inf")
                else f"level {level}: the detector computed infinite or NaN features: "
                "check its weights"
            )
        content = stored.data.cast("B")
        return StoredSample(
            content=content,
            checksum=f"{checksum(content):016x}",
            statistics=ChannelStatistics(
                count=height * width,
                mean=mean,
                m2=m2,
                minimum=minimum,
                maximum=maximum,
                cast_squared_error=float(squared.sum()),
                cast_max_error=float(largest.max()),
            ),
        )
