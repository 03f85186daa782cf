"""Bits saved: Bjøntegaard deltas between two curves, and against one lambda at equal mAP.

Bjøntegaard 2001 (VCEG-M33), computed by the package `bjontegaard` of Herglotz et al. 2024 ("The
Bjøntegaard Bible", IEEE Transactions on Image Processing 33, arXiv:2304.12852). Interpolation is
piecewise cubic Hermite (PCHIP), as in JVET's working practices (ITU-T HSTP-VID-WPOM, 2020): it
never rises or falls between points where they do not, and needs two points only. Akima's, which
the same paper finds a little more accurate for video, may overshoot on curves of mAP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bjontegaard import bd_psnr, bd_rate

from analyze.curves.rate_quality import Curve, CurvePoint, lower_hull, rising_hull


@dataclass(frozen=True, kw_only=True, slots=True)
class RateMap:
    """One combination as it was measured."""

    bits_per_pixel: float
    map: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """1 - bits / bits of the same lambda everywhere, at the same mAP; negative: a loss."""

    fraction: float | None
    """None: cannot be said, see `why`."""
    same_lambda_bits_per_pixel: float | None
    """What the same lambda everywhere needs for that mAP, interpolated."""
    at_least: bool = False
    """The mAP is above all of the same lambda's, and `fraction` is against the highest of them."""
    why: str


def saving(same_lambda: Iterable[RateMap], chosen: RateMap) -> Saving:
    """Return what `chosen` saves against the curve of combinations of one lambda each.

    log2(bits) is interpolated over mAP, linearly along the curve's own upper hull in that plane
    (as generous to the same lambda as its points allow: neighbours may be time-shared). Nothing is
    extrapolated: below the curve's mAP there is no figure, and above it one for fewer bits alone,
    against the highest point: better for less, so the saving is at least that.
    """
    points = [point for point in same_lambda if point.bits_per_pixel > 0]
    if not points:
        return _unknown("no lambda has every level")
    if chosen.bits_per_pixel <= 0:
        return _unknown("the chosen combination needs no bits")
    bits = np.log2([point.bits_per_pixel for point in points])
    accuracy = np.array([point.map for point in points])
    hull = lower_hull(bits, -accuracy)
    lowest, highest = accuracy[hull[0]], accuracy[hull[-1]]
    dearest = 2.0 ** float(bits[hull[-1]])
    if chosen.map > highest and chosen.bits_per_pixel < dearest:
        return Saving(
            fraction=1 - chosen.bits_per_pixel / dearest,
            same_lambda_bits_per_pixel=dearest,
            why=f"at mAP {highest:.4f}, the highest of {len(points)} combinations of one lambda "
            f"each, where the chosen one has {chosen.map:.4f}",
            at_least=True,
        )
    if not lowest <= chosen.map <= highest:
        side = "below" if chosen.map < lowest else "above"
        return _unknown(
            f"mAP {chosen.map:.4f} is {side} what one lambda for all levels reaches, "
            f"{lowest:.4f} to {highest:.4f}"
        )
    same = 2.0 ** float(np.interp(chosen.map, accuracy[hull], bits[hull]))
    return Saving(
        fraction=1 - chosen.bits_per_pixel / same,
        same_lambda_bits_per_pixel=same,
        why=f"at mAP {chosen.map:.4f}, log2(bits) interpolated over {len(hull)} of {len(points)} "
        "combinations of one lambda each",
    )


def _unknown(why: str) -> Saving:
    return Saving(fraction=None, same_lambda_bits_per_pixel=None, why=why)


_METHOD = "pchip"
_FEW_POINTS = 4
_LARGE_OVERLAP = 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class BdResult:
    """How a test curve lies against an anchor. A figure that cannot be had is None."""

    anchor: str
    test: str
    metric: str
    """What quality is: `PSNR (dB)` or `mAP`."""
    bd_rate_percent: float | None
    """Bits that the test needs more than the anchor at equal quality, in percent; < 0: fewer."""
    bd_quality: float | None
    """Quality that the test has more than the anchor at equal bits, in units of the metric."""
    overlap: float
    """Share of the two curves' joint range of quality that both cover, 0..1: the BD-rate's base."""
    note: str
    """Why a figure is missing, or what to mind when reading it; empty if there is nothing."""


def bd_result(anchor: Curve, test: Curve) -> BdResult:
    """Compare two curves of the same metric (ValueError: of different ones).

    Each is first reduced to its rising points (`rising_hull`): a BD integrates quality as a
    function of rate and back, which real curves, above all of mAP, are not everywhere.
    """
    if anchor.metric != test.metric:
        raise ValueError(f"{anchor.name} is of {anchor.metric}, {test.name} of {test.metric}")
    notes = []
    hulls = []
    for curve in (anchor, test):
        hull = rising_hull(curve.points)
        left_out = len(curve.points) - len(hull)
        if left_out:
            notes.append(
                f"{left_out} of {len(curve.points)} points of {curve.name} left out: they cost "
                "bits and gain no quality, or are no finite figures"
            )
        hulls.append(hull)
    for curve, hull in zip((anchor, test), hulls, strict=True):
        if len(hull) < 2:
            reason = f"no BD: {curve.name} has {_count(len(hull))} left, at least 2 are needed"
            return _result(anchor, test, None, None, 0.0, [reason, *notes])
    overlap = _overlap(*([point.quality for point in hull] for hull in hulls))
    rates_overlap = _overlap(
        *([math.log10(point.bits_per_pixel) for point in hull] for hull in hulls)
    )
    rate = _delta(bd_rate, *hulls) if overlap > 0 else None
    # The package calls every quality PSNR.
    quality = _delta(bd_psnr, *hulls) if rates_overlap > 0 else None
    notes = [*_reading(anchor, test, hulls, overlap, rates_overlap), *notes]
    if (overlap > 0 and rate is None) or (rates_overlap > 0 and quality is None):
        notes.insert(0, "the interpolation gave no finite figure")
    return _result(anchor, test, rate, quality, overlap, notes)


def _result(
    anchor: Curve,
    test: Curve,
    rate: float | None,
    quality: float | None,
    overlap: float,
    notes: Sequence[str],
) -> BdResult:
    return BdResult(
        anchor=anchor.name,
        test=test.name,
        metric=anchor.metric,
        bd_rate_percent=rate,
        bd_quality=quality,
        overlap=overlap,
        note="; ".join(notes),
    )


def _reading(
    anchor: Curve,
    test: Curve,
    hulls: Sequence[Sequence[CurvePoint]],
    overlap: float,
    rates_overlap: float,
) -> list[str]:
    """Return what a reader of the figures has to mind."""
    notes = []
    if overlap == 0:
        lows = [hull[0].quality for hull in hulls]
        above = test.name if lows[1] > lows[0] else anchor.name
        notes.append(f"no BD-rate: no quality that both reach, {above} lies above throughout")
    elif overlap < _LARGE_OVERLAP:
        share = "less than 1%" if overlap < 0.01 else f"{overlap:.0%}"
        notes.append(f"BD-rate over {share} of the range of quality only")
    if rates_overlap == 0:
        lows = [hull[0].bits_per_pixel for hull in hulls]
        fewer = test.name if lows[1] < lows[0] else anchor.name
        notes.append(f"no BD of quality: no rate that both have, {fewer} needs fewer bits")
    few = [
        f"{curve.name} has {_count(len(hull))}"
        for curve, hull in zip((anchor, test), hulls, strict=True)
        if len(hull) < _FEW_POINTS
    ]
    if few:
        notes.append(f"rough: {' and '.join(few)}, {_FEW_POINTS} are usual")
    return notes


def _delta(
    figure: Callable[..., Any], anchor: Sequence[CurvePoint], test: Sequence[CurvePoint]
) -> float | None:
    delta = float(
        figure(*_axes(anchor), *_axes(test), _METHOD, require_matching_points=False, min_overlap=0)
    )
    return delta if math.isfinite(delta) else None


def _axes(points: Sequence[CurvePoint]) -> tuple[list[float], list[float]]:
    return [point.bits_per_pixel for point in points], [point.quality for point in points]


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    shared = min(max(first), max(second)) - max(min(first), min(second))
    whole = max(*first, *second) - min(*first, *second)
    return max(0.0, shared) / whole


def _count(number: int) -> str:
    return {0: "no point", 1: "one point"}.get(number, f"{number} points")
