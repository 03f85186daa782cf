"""The best ways to send an image's levels at one slope, exactly, and the slope for a size. Pure.

For one slope common to all images, what minimises

    slope * bytes / 1000 + sum over levels of weight * MSE

image by image gives the least distortion of all images together that their bytes allow (Everett
1963; Shoham and Gersho 1988). Levels are coupled: a contextual way stands only beside the coarser
way that it was measured beside, and a derived level has its source's error. So the levels of an
image are a chain, of which the next coarser way is all that a finer level needs to know: dynamic
programming, from the finest level to the coarsest, looks at each way once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.image_choice.ways import Way

_BYTES_PER_UNIT = 1000
_CLOSE = 1 + 1e-9  # slopes that are so near each other are one


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WayCosts:
    """What W ways cost in I images."""

    num_bytes: NDArray[Any]
    """int64 [I, W], of the level's section of a file."""
    mse: NDArray[Any]
    """float64 [I, W], over the level's elements of the image; 0 for derived levels."""

    @property
    def summed(self) -> WayCosts:
        """Return the costs of all images as those of one, who all choose alike."""
        return WayCosts(
            num_bytes=self.num_bytes.sum(0, keepdims=True), mse=self.mse.sum(0, keepdims=True)
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choices:
    """What I images take at a slope."""

    ways: tuple[tuple[int, ...], ...]
    """For each image the places of its ways, one for each level, by level."""
    num_bytes: NDArray[Any]
    """int64 [I], of the sections."""
    distortion: NDArray[Any]
    """float64 [I], the sum of weight * MSE."""

    def lagrangian(self, slope: float) -> float:
        """Return what was minimised, summed over the images."""
        return float(slope * self.num_bytes.sum() / _BYTES_PER_UNIT + self.distortion.sum())


@dataclass(frozen=True, slots=True)
class _Chain:
    """One set of levels that are derived, and what is left to choose."""

    levels: tuple[int, ...]
    """Those that are not derived, finest first."""
    derived: Mapping[int, tuple[int, ...]]
    """Source level -> places of the ways that derive another level of it."""


def choose(ways: Sequence[Way], costs: WayCosts, slope: float) -> Choices:
    """Return the best choice of each image; ValueError if no ways go together."""
    found = [_best_of(chain, ways, costs, slope) for chain in _chains(ways)]
    if not found:
        raise ValueError("a level has no way")
    totals = np.stack([total for total, _ in found])
    best = totals.argmin(0)
    if not np.isfinite(totals.min(0)).all():
        raise ValueError("no ways of all levels go together")
    picked = tuple(
        tuple(sorted(found[int(chain)][1][image], key=lambda place: ways[place].level))
        for image, chain in enumerate(best)
    )
    return costs_of(ways, costs, picked)


def costs_of(ways: Sequence[Way], costs: WayCosts, picked: Sequence[tuple[int, ...]]) -> Choices:
    """Return what a choice for each image costs, whoever made it."""
    num_bytes, distortion = [], []
    for image, places in enumerate(picked):
        by_level = {ways[place].level: place for place in places}
        num_bytes.append(int(costs.num_bytes[image, list(places)].sum()))
        distortion.append(
            sum(
                ways[place].weight * costs.mse[image, by_level[ways[place].error_level]]
                for place in places
            )
        )
    return Choices(
        ways=tuple(picked),
        num_bytes=np.array(num_bytes, dtype=np.int64),
        distortion=np.array(distortion, dtype=np.float64),
    )


def slope_range(ways: Sequence[Way], costs: WayCosts) -> tuple[float, float]:
    """Return the slopes at which nothing but errors, and nothing but bytes, decides.

    Below the first one bytes are lost in the rounding of errors.
    """
    weights = np.array([way.weight for way in ways])
    span = float((weights * costs.mse).max(initial=0.0)) * len(ways)
    high = 2 * _BYTES_PER_UNIT * max(span, 1e-12)
    return high * 1e-15, high


def slope_for(ways: Sequence[Way], costs: WayCosts, most_bytes: int) -> float | None:
    """Return the smallest slope at which all images' sections take at most `most_bytes`.

    None if they never do. Found by halving, to a relative 1e-9; each step chooses anew among costs
    that are measured once.
    """
    low, high = slope_range(ways, costs)

    def fits(slope: float) -> bool:
        return int(choose(ways, costs, slope).num_bytes.sum()) <= most_bytes

    if not fits(high):
        return None
    if fits(low):
        return low
    while high / low > _CLOSE:
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _chains(ways: Sequence[Way]) -> Iterator[_Chain]:
    """Yield each set of levels that can be derived together with all others chosen."""
    derived = {way.level: place for place, way in enumerate(ways) if way.error_level != way.level}
    levels = sorted({way.level for way in ways})
    for size in range(len(derived) + 1):
        for some in itertools.combinations(sorted(derived), size):
            sources: dict[int, list[int]] = {}
            for level in some:
                sources.setdefault(ways[derived[level]].error_level, []).append(derived[level])
            if not sources.keys() & set(some):
                yield _Chain(
                    tuple(level for level in levels if level not in some),
                    {source: tuple(places) for source, places in sources.items()},
                )


def _best_of(
    chain: _Chain, ways: Sequence[Way], costs: WayCosts, slope: float
) -> tuple[NDArray[Any], list[list[int]]]:
    """Return each image's least total, float64 [I], inf where there is none, and its ways."""
    num_images = len(costs.num_bytes)
    bytes_cost = slope * costs.num_bytes / _BYTES_PER_UNIT
    totals: dict[int, NDArray[Any]] = {}
    """Place of a way -> the least cost of it and all finer levels."""
    nexts: dict[int, NDArray[Any]] = {}
    """Place of a way -> that of the finer level's way that goes with it, int64 [I]; -1: no more."""
    finer: list[int] | None = None
    for level, coarser in zip(chain.levels, [*chain.levels[1:], None], strict=True):
        level_ways = [
            place
            for place, way in enumerate(ways)
            if way.level == level and way.error_level == level
            and (way.beside is None or ways[way.beside].level == coarser)
        ]  # fmt: skip
        for place in level_ways:
            own = bytes_cost[:, place] + ways[place].weight * costs.mse[:, place]
            for derived in chain.derived.get(level, ()):
                own = own + bytes_cost[:, derived] + ways[derived].weight * costs.mse[:, place]
            if finer is None:
                totals[place], nexts[place] = own, np.full(num_images, -1)
                continue
            least, nexts[place] = _least(finer, ways, totals, place, num_images)
            totals[place] = own + least
        finer = level_ways
    total, first = _least(finer or [], ways, totals, None, num_images)
    picked = []
    of_derived = [place for places in chain.derived.values() for place in places]
    for image in range(num_images):
        place, found = int(first[image]), list(of_derived)
        while place >= 0:
            found.append(place)
            place = int(nexts[place][image])
        picked.append(found)
    return total, picked


def _least(
    finer: Sequence[int],
    ways: Sequence[Way],
    totals: Mapping[int, NDArray[Any]],
    coarser: int | None,
    num_images: int,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the least total of the finer level's ways that go with a coarser one, and which."""
    going = [place for place in finer if ways[place].beside in (None, coarser)]
    if not going:
        return np.full(num_images, np.inf), np.full(num_images, -1)
    stacked = np.stack([totals[place] for place in going])
    return stacked.min(0), np.array(going)[stacked.argmin(0)]
