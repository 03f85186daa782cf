"""Accuracy as plain values, with intervals over images by the bootstrap (Efron 1979).

A data set of I images is drawn again and again, with replacement, from the I images there are; the
interval is where the middle 95 % of the draws' mAPs lie (the percentile method). It says how much
the figure depends on which images happened to be in the split, nothing of training's own luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.accuracy.matches import Matches, weighted_map


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Both ends in the figure's own unit; NaN where the figure could not be computed."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """COCO figures, 0..1; -1 where the split has no object of that size."""

    map: float
    map_50: float
    small: float
    medium: float
    large: float
    interval: Interval | None = None
    """95 % of bootstrap draws of the images give a `map` in here."""
    drop: float | None = None
    """`map` of the original features minus this one."""
    drop_interval: Interval | None = None
    """The same for `drop`; both are computed on the same draws."""


_CONFIDENCE = 0.95
_DRAWS_AT_ONCE = 64  # weights of COCO val's 5000 images: 2.6 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class MapIntervals:
    """95 % intervals of mAP before, after, and of the drop (before - after) in the same draws."""

    before: Interval
    after: Interval | None
    drop: Interval | None


def map_intervals(
    before: Matches, after: Matches | None, *, num_draws: int = 1000, seed: int = 0
) -> MapIntervals:
    """Return the intervals; `before` and `after` must be of the same images (else ValueError).

    See `map_draws` for the cost.
    """
    first = map_draws(before, num_draws=num_draws, seed=seed)
    if after is None:
        return MapIntervals(before=interval_of(first), after=None, drop=None)
    if not np.array_equal(before.image_ids, after.image_ids):
        raise ValueError("a drop is between detections on the same images")
    second = map_draws(after, num_draws=num_draws, seed=seed)
    return MapIntervals(
        before=interval_of(first), after=interval_of(second), drop=interval_of(first - second)
    )


def map_draws(matches: Matches, *, num_draws: int = 1000, seed: int = 0) -> NDArray[Any]:
    """Return the mAP of `num_draws` resamplings, float64 [num_draws]; NaN: a draw without truths.

    The draws depend on the seed and the number of images alone, so those of two codecs belong
    together, and the drop between them has the interval of the differences. 1000 draws take 0.13 s
    for 51 images with 1500 detections, about 19 s of one core at the size of COCO val.
    """
    num_images = len(matches.image_ids)
    generator = np.random.default_rng(seed)
    shares = np.full(num_images, 1 / num_images)
    parts = [np.zeros(0)]
    for first in range(0, num_draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, num_draws - first)
        parts.append(weighted_map(matches, generator.multinomial(num_images, shares, size=size)))
    return np.concatenate(parts)


def interval_of(draws: NDArray[Any]) -> Interval:
    """Return the percentile interval of draws [N], those that are NaN left out."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return Interval(low=np.nan, high=np.nan)
    low, high = np.quantile(known, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high))
