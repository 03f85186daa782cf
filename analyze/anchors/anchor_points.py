"""What anchors reached: one point for each of their settings."""

from __future__ import annotations

from dataclasses import dataclass

from analyze.anchors.anchor_rate_distortion import AnchorMeasurement
from extract.accuracy.bootstrap import Accuracy


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorPoint:
    """One anchor at one rate point, every level coded by it."""

    anchor: str
    """The name that options use."""
    title: str
    """What tables call the anchor."""
    point: str
    levels: dict[int, AnchorMeasurement]
    """Every cached level, those in `derived` too; empty where the image is coded instead."""
    derived: tuple[int, ...]
    """Levels that the decoder computes from another one: neither sent nor counted in the rates."""
    bits_per_pixel: float
    """All bits of the files per pixel of the original images."""
    ideal_bits_per_pixel: float | None
    """The same by the symbols' entropy; None for anchors that do not code symbol by symbol."""
    accuracy: Accuracy | None
    """Detection from the decoded and derived levels, or by the whole detector from the decoded
    images; None where it cannot be run."""
    is_image: bool = False
    """The image is coded instead of its features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorStudy:
    """All points, anchor by anchor; `missing` says what could not be measured and what to do."""

    points: tuple[AnchorPoint, ...]
    missing: tuple[str, ...]
