"""What an analysis knows of each way to send a level, for images that choose themselves.

A way's weight is what the allocation takes it to cost, over its MSE on the same images: the mAP
that is lost by unit of error with this level alone so. An image's part of the loss is then as large
as its error, and on the mean of all images each way costs what the allocation says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from analyze.allocation.lagrangian import Cost, Option, map_drop_cost, weighted_mse_cost
from analyze.facts.candidates import Candidate
from analyze.image_choice.ways import Way, Ways
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    EnsembleLevel,
    PredictedLevel,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeighedWays:
    """Ways, and the run of each."""

    ways: Ways
    runs: tuple[str | None, ...]
    """As `Option.run`; None for levels that no model decodes."""


def weighed_ways(
    options: Sequence[Option], runs: Mapping[str, Candidate], shares: Mapping[int, float]
) -> WeighedWays:
    """Return the options as ways, coarsest level first.

    `runs` is run folder -> run, `shares` level -> share of all elements: without drops of mAP the
    distortion is the MSE of all elements.
    """
    has_map = all(option.map_drop is not None for option in options)
    cost: Cost = map_drop_cost if has_map else weighted_mse_cost(shares)
    ways: list[Way] = []
    of_runs: list[str | None] = []
    places: dict[tuple[int, str], int] = {}
    for level in sorted({option.level for option in options}, reverse=True):
        own = [option for option in options if option.level == level]
        for option in own:
            if option.kind == "derived":
                continue
            if option.beside is not None and option.beside not in places:
                continue  # the run that it sees is not among them
            places[level, option.name] = len(ways)
            ways.append(
                Way(
                    level=level,
                    how=_how(option, runs),
                    weight=_weight(option, cost),
                    beside=None if option.beside is None else places[option.beside],
                )
            )
            of_runs.append(option.run)
        derived = [option for option in own if option.source is not None]
        if derived:
            assert derived[0].source is not None
            # Its error is the source's, whichever way that is sent: one weight for all.
            weight = fmean(_weight(option, cost) for option in derived)
            source = DerivedLevel(source=derived[0].source[0])
            ways.append(Way(level=level, how=source, weight=weight))
            of_runs.append(None)
    return WeighedWays(ways=Ways(tuple(ways), "mAP" if has_map else "MSE"), runs=tuple(of_runs))


def _weight(option: Option, cost: Cost) -> float:
    return cost(option) / option.mse if option.mse > 0 else 0.0


def _how(option: Option, runs: Mapping[str, Candidate]) -> EnsembleLevel:
    if option.run is None:
        return DroppedLevel()
    run = runs[option.run]
    way = PredictedLevel if run.is_predicted else CodedLevel
    return way(run=run.model_folder, model_sha256=run.model_sha256, lmbda=run.lmbda)
