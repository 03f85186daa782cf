"""All ways to send a cache's levels by some runs, without an analysis that weighs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from analyze.image_choice.ways import Way, Ways
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    ModelLevel,
    PredictedLevel,
)
from configs.errors import ConfigError
from data.cache.manifest import Manifest
from train.runs.loaded_models import LoadedModels

SQUARED_ERROR = "MSE"
"""The distortion: a level's weight is its share of all elements, so that the sum is their MSE."""


def ways_of_runs(
    runs: Sequence[Path | str], manifest: Manifest, models: LoadedModels | None = None
) -> Ways:
    """Return all ways to send the cache's levels by these runs, each of which errs by its MSE.

    A contextual run is coded beside all coded ways of the coarser level that it was trained beside,
    and predicted beside these and the predicted ones; `models` are those that are read already.
    Raises ConfigError if a run serves no level of the cache, or has no way to be decoded.
    """
    models = models or LoadedModels()
    found: list[Way] = []
    used: set[Path] = set()
    shares = _shares(manifest)
    for info in reversed(manifest.levels):
        level, weight = info.index, shares[info.index]
        for run in map(Path, runs):
            own = models.info(run)
            if level not in own.levels:
                continue
            coded = CodedLevel(run=run, model_sha256=own.model_sha256, lmbda=own.lmbda)
            if own.config.model.context is None:
                found.append(Way(level=level, how=coded, weight=weight))
                used.add(run)
                continue
            for place in _seen_by(own.context, level, manifest, found):
                used.add(run)
                way = Way(level=level, how=coded, weight=weight, beside=place)
                if isinstance(found[place].how, CodedLevel):
                    found.append(way)
                found.append(replace(way, how=PredictedLevel(**asdict(coded))))
        found.append(Way(level=level, how=DroppedLevel(), weight=weight))
        if info.derived_from is not None:
            derived = DerivedLevel(source=info.derived_from)
            found.append(Way(level=level, how=derived, weight=weight))
    for run in map(Path, runs):
        if run not in used:
            beside = models.info(run).context_in_words
            if not beside:
                raise ConfigError(f"{run}: serves no level of this cache: leave it out")
            raise ConfigError(
                f"{run}: sees what no run here sends: name the run that it was trained beside, "
                f"{beside}, too, or leave it out"
            )
    return Ways(tuple(found), SQUARED_ERROR)


def _seen_by(
    context: Sequence[str], level: int, manifest: Manifest, coarser: Sequence[Way]
) -> list[int]:
    """Return the places of ways beside which a run of a level can be decoded.

    They are of the next coarser level; where that can be derived, and so be none that is seen, of
    the one after it, too.
    """
    levels: list[int] = []
    for info in manifest.levels:
        if info.index > level:
            levels.append(info.index)
            if info.derived_from is None:
                break
    return [
        place
        for place, way in enumerate(coarser)
        if way.level in levels
        and isinstance(way.how, ModelLevel)
        and way.how.model_sha256 in context
    ]


def _shares(manifest: Manifest) -> dict[int, float]:
    """Return level -> its share of all elements of the split."""
    elements = {
        info.index: sum(
            math.prod(manifest.sample_shape(info.index, sample.bucket))
            for sample in manifest.samples
        )
        for info in manifest.levels
    }
    return {level: each / sum(elements.values()) for level, each in elements.items()}
