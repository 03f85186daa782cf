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


def cast_sample(computed: Tensor, dtype: str, level: int) -> StoredSample:
    """Cast one map, float32 [H, W, C], to the stored dtype.

    Raises CacheError if a value does not fit it, or is not finite.
    """
    # In the backbone's own layout reductions over a channel's positions are fast, and the one
    # transpose, a plain 2-D one, is of half as many bytes.
    channels_first = computed.permute(2, 0, 1)
    cast = channels_first.to(getattr(torch, dtype))
    statistics = statistics_of(cast, channels_first)
    if not (np.isfinite(statistics.minimum).all() and np.isfinite(statistics.maximum).all()):
        largest = float(computed.abs().max())
        raise CacheError(
            f"level {level}: a feature of magnitude {largest:.4g} does not fit {dtype}: "
            "run with --dtype float32"
            if largest < float("inf")
            else f"level {level}: the detector computed infinite or NaN features: check its weights"
        )
    content = cast.flatten(1).t().contiguous().numpy().data.cast("B")
    return StoredSample(
        content=content, checksum=f"{checksum(content):016x}", statistics=statistics
    )
