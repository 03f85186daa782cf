"""Rate against quality: curves of levels, whole pyramids and anchors, and their hulls. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze.anchors.anchor_points import AnchorPoint
from analyze.facts.results import Combination, LevelRow


def pareto_front(rates: ArrayLike, distortions: ArrayLike) -> NDArray[Any]:
    """Return the places, int64 [K], of the points that no other point beats in both, by rate.

    Rates rise and distortions fall strictly along the result; of equal points the first is kept.
    Raises ValueError if the two are not finite and of one length.
    """
    rate, distortion = _checked(rates, distortions)
    kept: list[int] = []
    # lexsort is stable: of equal points the first comes first.
    for place in np.lexsort((distortion, rate)).tolist():
        if not kept or distortion[place] < distortion[kept[-1]]:
            kept.append(place)
    return np.array(kept, dtype=np.int64)


def lower_hull(rates: ArrayLike, distortions: ArrayLike) -> NDArray[Any]:
    """Return the places, int64 [K], of the vertices of the falling lower convex hull, by rate.

    These are the points that minimise distortion + multiplier * rate for some multiplier >= 0
    (Everett 1963; Shoham and Gersho 1988, section III). Distortion per rate falls ever more slowly
    along them; points on an edge between two vertices are left out. Raises ValueError as above.
    """
    rate, distortion = _checked(rates, distortions)
    hull: list[int] = []
    for place in pareto_front(rate, distortion).tolist():
        while len(hull) > 1 and _is_above_chord(rate, distortion, hull[-2], hull[-1], place):
            hull.pop()
        hull.append(place)
    return np.array(hull, dtype=np.int64)


def _is_above_chord(rate: NDArray[Any], distortion: NDArray[Any], a: int, b: int, c: int) -> bool:
    """Whether b lies on or above the line from a to c: it falls no faster to b than on to c."""
    first = (distortion[b] - distortion[a]) / (rate[b] - rate[a])
    second = (distortion[c] - distortion[b]) / (rate[c] - rate[b])
    return bool(first >= second)


def rising(values: NDArray[Any]) -> NDArray[Any]:
    """Return the rising sequence that is nearest in squares, float64 [N] (pool adjacent violators).

    Neighbours that fall are replaced by their mean until none does.
    """
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            mean, size = means.pop(), sizes.pop()
            means[-1] = (means[-1] * sizes[-1] + mean * size) / (sizes[-1] + size)
            sizes[-1] += size
    return np.repeat(np.array(means, dtype=np.float64), sizes)


def _checked(rates: ArrayLike, distortions: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    rate = np.asarray(rates, dtype=np.float64)
    distortion = np.asarray(distortions, dtype=np.float64)
    if rate.shape != distortion.shape or rate.ndim != 1:
        raise ValueError(f"{rate.shape} rates and {distortion.shape} distortions")
    if not (np.isfinite(rate).all() and np.isfinite(distortion).all()):
        raise ValueError("a rate or a distortion is not finite")
    return rate, distortion


PSNR, MAP = "PSNR (dB)", "mAP"
IDEAL = "ideal entropy coder"


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """One point. All rates count every byte, unless the curve says that they are ideal."""

    label: str
    """What makes it this point: a lambda, a step."""
    bits_per_pixel: float
    """Per pixel of the original images."""
    quality: float
    """PSNR in dB, or mAP, 0..1. Infinite for a lossless point's PSNR."""
    bpp: float | None = None
    """Bits per position of the level; None for a whole pyramid."""
    mse: float | None = None
    """In the features' own units squared; None for a whole pyramid."""
    low: float | None = None
    """Of runs that differ in the seed only: the smallest quality; all else is their mean."""
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Points by rising rate; a metric is compared with the same metric alone."""

    name: str
    metric: str
    """`PSNR (dB)` or `mAP`."""
    points: tuple[CurvePoint, ...]


def level_curve(rows: Iterable[LevelRow], level: int, name: str) -> Curve:
    """Return PSNR and MSE of a level over the lambdas of its runs; runs of one codec are given."""
    return _curve(
        name,
        PSNR,
        _over_seeds(
            (
                (row.measurement.lmbda, "" if row.seed is not None else row.measurement.run),
                CurvePoint(
                    label=f"lambda {row.measurement.lmbda:.3g}",
                    bits_per_pixel=row.measurement.bits_per_pixel,
                    quality=row.measurement.psnr_db,
                    bpp=row.measurement.real_bpp,
                    mse=row.measurement.mse,
                ),
            )
            for row in rows
            if row.facts.level == level and row.measurement is not None
        ),
    )


def anchor_level_curves(points: Iterable[AnchorPoint], level: int) -> tuple[Curve, ...]:
    """Return a curve of PSNR for each anchor at a level; one more for each with an ideal rate.

    An anchor that codes images has none.
    """
    real: dict[str, list[CurvePoint]] = {}
    ideal: dict[str, list[CurvePoint]] = {}
    for point in points:
        if point.is_image:
            continue
        found = point.levels[level]
        real.setdefault(point.title, []).append(
            CurvePoint(
                label=point.point,
                bits_per_pixel=found.bits_per_pixel,
                quality=found.psnr_db,
                bpp=found.real_bpp,
                mse=found.mse,
            )
        )
        if found.ideal_bits_per_pixel is not None:
            ideal.setdefault(point.title, []).append(
                CurvePoint(
                    label=point.point,
                    bits_per_pixel=found.ideal_bits_per_pixel,
                    quality=found.psnr_db,
                    bpp=found.ideal_bpp,
                    mse=found.mse,
                )
            )
    return _curves(real, PSNR) + _curves(_as_ideal(ideal), PSNR)


def pyramid_curve(combinations: Iterable[Combination], name: str) -> Curve:
    """Return mAP against the bits of all levels; combinations without either (mAP -1: nothing
    to find) are left out."""
    return _curve(
        name,
        MAP,
        _over_seeds(
            (
                each.over_seeds or each.name,
                CurvePoint(
                    label=each.over_seeds or each.name,
                    bits_per_pixel=each.bits_per_pixel,
                    quality=each.accuracy.map,
                ),
            )
            for each in combinations
            if each.bits_per_pixel is not None
            and each.accuracy is not None
            and each.accuracy.map >= 0
        ),
    )


def anchor_pyramid_curves(points: Iterable[AnchorPoint]) -> tuple[Curve, ...]:
    """Return a curve of mAP for each anchor; one more for each with an ideal rate."""
    real: dict[str, list[CurvePoint]] = {}
    ideal: dict[str, list[CurvePoint]] = {}
    for point in points:
        if point.accuracy is None or point.accuracy.map < 0:
            continue
        quality = point.accuracy.map
        real.setdefault(point.title, []).append(
            CurvePoint(label=point.point, bits_per_pixel=point.bits_per_pixel, quality=quality)
        )
        if (rate := point.ideal_bits_per_pixel) is not None:
            ideal.setdefault(point.title, []).append(
                CurvePoint(label=point.point, bits_per_pixel=rate, quality=quality)
            )
    return _curves(real, MAP) + _curves(_as_ideal(ideal), MAP)


def rising_hull(points: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
    """Return the points that no other one beats, by rising rate: strictly rising in quality too.

    A point goes if another one has at least its quality for at most its bits. Points without a
    finite quality and a positive rate, such as a lossless one's PSNR, go too. The hull is monotone
    but not convex: convexity would hide a poor rate point, which belongs to a codec's curve.
    """
    hull: list[CurvePoint] = []
    usable = [
        point
        for point in points
        if math.isfinite(point.quality)
        and math.isfinite(point.bits_per_pixel)
        and point.bits_per_pixel > 0
    ]
    for point in sorted(usable, key=lambda each: (each.bits_per_pixel, -each.quality)):
        if not hull or point.quality > hull[-1].quality:
            hull.append(point)
    return tuple(hull)


def _over_seeds(points: Iterable[tuple[Hashable, CurvePoint]]) -> Iterator[CurvePoint]:
    """Yield points, those of one key as their mean."""
    alike: dict[Hashable, list[CurvePoint]] = {}
    for key, point in points:
        alike.setdefault(key, []).append(point)
    for first, *others in alike.values():
        if not others:
            yield first
            continue
        found = [first, *others]
        qualities = [each.quality for each in found]
        yield CurvePoint(
            label=first.label,
            bits_per_pixel=fmean(each.bits_per_pixel for each in found),
            quality=fmean(qualities),
            bpp=None if first.bpp is None else fmean(each.bpp or 0.0 for each in found),
            mse=None if first.mse is None else fmean(each.mse or 0.0 for each in found),
            low=min(qualities),
            high=max(qualities),
        )


def _as_ideal(curves: dict[str, list[CurvePoint]]) -> dict[str, list[CurvePoint]]:
    return {f"{name}, {IDEAL}": points for name, points in curves.items()}


def _curves(points: dict[str, list[CurvePoint]], metric: str) -> tuple[Curve, ...]:
    return tuple(_curve(name, metric, each) for name, each in points.items())


def _curve(name: str, metric: str, points: Iterable[CurvePoint]) -> Curve:
    ordered = tuple(sorted(points, key=lambda point: point.bits_per_pixel))
    return Curve(name=name, metric=metric, points=ordered)
