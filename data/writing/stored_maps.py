"""Maps cast, laid out channels last and summed up where they are: on the device that computed them.

What a GPU computes leaves it as it is stored: half the bytes of float32, in the file's order, and a
few sums. On a CPU, `stored_sample` does the same several times as fast, to the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.cache.channel_statistics import ChannelStatistics
from data.cache.commit_log import checksum
from data.writing.stored_sample import StoredSample, unstorable

STORED_DTYPES = {"float16": torch.float16, "float32": torch.float32}
"""What `stored_maps` makes; maps of other stored types are cast by `SampleCaster`."""

_NUM_SUMS = 7
_VALUES_AT_ONCE = 2**25  # 256 MiB as float64, in which they are summed up


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
