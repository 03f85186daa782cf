"""Curves out of measured points: Pareto front, lower convex hull, nearest rising ones. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
