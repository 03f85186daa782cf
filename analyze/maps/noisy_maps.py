"""Controlled errors of a level: what an ideal Gaussian codec of a given MSE would decode.

The optimum test channel of a Gaussian source (Cover and Thomas 2006, section 10.3): a channel of
mean m and variance v that is sent with squared error d <= v is decoded as
m + (1 - d / v) (x - m) + noise of variance d (1 - d / v); d = v is the mean alone. Over channels
the errors are those of reverse water-filling (section 10.3.3): d = min(t, v), with t such that
their mean is the MSE asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.reading.level_reader import LevelReader


def water_filled(variance: NDArray[Any], total: float) -> NDArray[Any]:
    """Return errors min(t, variance), float64 [C], of sum `total`; all of `variance` if less."""
    rising = np.sort(variance)
    # With t between two variances, those below count whole and the others t each.
    below = np.concatenate([[0.0], np.cumsum(rising)[:-1]])
    waters = (total - below) / np.arange(len(rising), 0, -1)
    between = waters <= rising
    if not between.any():  # the sum of all, or more; by one rounding or another
        return variance.astype(np.float64)
    water = waters[np.argmax(between)]
    filled: NDArray[Any] = np.minimum(water, variance.astype(np.float64))
    return filled


class NoisyMaps:
    """One level's cached maps as the test channel gives them back.

    The noise depends on the seed, the level and the sample alone: two strengths of it are the same
    noise scaled, so that curves over strengths are smoother than the noise.
    """

    def __init__(self, reader: LevelReader, errors: NDArray[Any], seed: int) -> None:
        """Take the squared error of each channel, [C]; at most the channel's variance."""
        self._reader = reader
        self._seed = seed
        variance = reader.statistics.variance
        shares = np.divide(errors, variance, out=np.zeros(len(errors)), where=variance > 0)
        shares = np.clip(shares, 0.0, 1.0)
        self._mean = reader.statistics.mean.astype(np.float32)
        self._gain = (1.0 - shares).astype(np.float32)
        self._deviation = np.sqrt(errors * (1.0 - shares)).astype(np.float32)

    def read(self, index: int) -> NDArray[Any]:
        """Return the map of sample `index`, float32 [H, W, C]."""
        values = np.array(self._reader.sample(index), dtype=np.float32)
        generator = np.random.default_rng([self._seed, self._reader.info.index, index])
        noise = generator.standard_normal(values.shape, dtype=np.float32)
        noise *= self._deviation
        values -= self._mean
        values *= self._gain
        values += self._mean
        values += noise
        return values
