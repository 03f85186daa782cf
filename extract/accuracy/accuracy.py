"""An interval of a figure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Both ends in the figure's own unit; NaN where the figure could not be computed."""

    low: float
    high: float
