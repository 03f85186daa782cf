"""What runs reach that differ in the seed only: the mean, and from the smallest to the largest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from analyze.facts.results import AnalysisResult, Combination, LevelRow, measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A figure of several seeds."""

    mean: float
    low: float
    """The smallest of them."""
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedSpread:
    """A run of a level, or a combination of runs, with several seeds."""

    what: str
    seeds: tuple[int, ...]
    bits_per_pixel: Spread
    """Of the original images."""
    mse: Spread | None
    """Of a level, in the features' own units; None for a combination."""
    map: Spread | None
    """Of a level with the others as cached; None without detection."""


def spread_over_seeds(result: AnalysisResult) -> tuple[SeedSpread, ...]:
    """Return the spread of each level and lambda, and of each whole pyramid and allocation."""
    runs: dict[tuple[int, str, float], list[LevelRow]] = {}
    for row, run in measured(result):
        if row.seed is not None:
            runs.setdefault((row.facts.level, row.curve, run.lmbda), []).append(row)
    return tuple(
        _of_runs(f"level {level}, lambda {lmbda:.3g}" + (f", {by}" if by else ""), rows)
        for (level, by, lmbda), rows in runs.items()
    ) + tuple(spread_of(each) for each in alike(result.combinations) if each[0].over_seeds)


def alike(combinations: Iterable[Combination]) -> list[list[Combination]]:
    """Put together what differs in the seed only; all else is alone."""
    groups: dict[str, list[Combination]] = {}
    for each in combinations:
        groups.setdefault(each.over_seeds or each.name, []).append(each)
    return list(groups.values())


def spread_of(combinations: Sequence[Combination]) -> SeedSpread:
    """Return the spread of combinations that differ in the seed only, all levels sent."""
    return SeedSpread(
        what=combinations[0].over_seeds,
        seeds=tuple(each.seed for each in combinations if each.seed is not None),
        bits_per_pixel=_spread(each.bits_per_pixel or 0.0 for each in combinations),
        mse=None,
        map=_known(each.accuracy.map if each.accuracy else None for each in combinations),
    )


def _of_runs(what: str, rows: Sequence[LevelRow]) -> SeedSpread:
    runs = [row.measurement for row in rows if row.measurement is not None]
    return SeedSpread(
        what=what,
        seeds=tuple(row.seed for row in rows if row.seed is not None),
        bits_per_pixel=_spread(run.bits_per_pixel for run in runs),
        mse=_spread(run.mse for run in runs),
        map=_known(row.alone.map if row.alone else None for row in rows),
    )


def _known(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return _spread(known) if known else None


def _spread(values: Iterable[float]) -> Spread:
    found = list(values)
    return Spread(mean=fmean(found), low=min(found), high=max(found))
