"""COCO accuracy as plain values, with the interval of a figure."""

from __future__ import annotations

from dataclasses import dataclass


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
