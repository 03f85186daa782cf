"""Which lambda to train next, level by level, from the runs there are and what is aimed at."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from analyze.allocation.allocate import AllocationFinding, dropped_error, measured_drops
from analyze.allocation.search import Target
from analyze.curves.lambda_suggestion import (
    CurvePoint,
    LevelTarget,
    Suggestion,
    mse_for_drop,
    suggest_lambda,
)
from analyze.facts.candidates import learner_labels
from analyze.facts.results import Measurement
from analyze.measure.workbench import Workbench
from configs.errors import ConfigError

_BELOW_BEST = 0.1  # of the smallest MSE: drops are not looked for further down


def next_lambdas(
    bench: Workbench,
    measurements: Mapping[str, Measurement],
    allocation: AllocationFinding | None,
    target: Target | None,
    missing: list[str],
) -> tuple[Suggestion, ...]:
    """Suggest one for each level and each learner of it: these have curves of their own.

    Without `target`, in the largest gap of the curve; with it, where the level does its part. What
    cannot be said is a line of `missing`.
    """
    found = []
    labels = learner_labels(bench.runs)
    for level, model in sorted({(run.level, run.model) for run in bench.runs}):
        points = [
            CurvePoint(
                lmbda=run.lmbda,
                bits_per_position=measurements[str(run.folder)].real_bpp,
                mse=measurements[str(run.folder)].mse,
            )
            for run in bench.runs
            if (run.level, run.model) == (level, model)
        ]
        try:
            aim = None
            if target is not None:
                aim = _aim(bench, measurements, allocation, target, level, model)
            suggestion = suggest_lambda(level, points, aim)
        except ConfigError as error:
            missing.append(f"no next lambda: {error}")
            continue
        if labels[model]:
            suggestion = dataclasses.replace(suggestion, why=f"{labels[model]}: {suggestion.why}")
        found.append(suggestion)
    return tuple(found)


def _aim(
    bench: Workbench,
    measurements: Mapping[str, Measurement],
    allocation: AllocationFinding | None,
    target: Target,
    level: int,
    model: str,
) -> LevelTarget:
    """Return a level's part of a target of all levels.

    The same MSE; of the bits the share that it has in the allocation; of a drop of mAP an equal
    share with the other levels. Raises ConfigError where it has none.
    """
    if target.kind == "mse":
        return LevelTarget(kind="mse", value=target.value)
    if allocation is None:
        raise ConfigError(f"level {level}: without an allocation a level has no part of the target")
    chosen = allocation.allocation.combination
    if target.kind == "bpp":
        (mine,) = (option for option in chosen.options if option.level == level)
        if mine.run is None:
            raise ConfigError(
                f"level {level}: is {mine.kind} in the allocation, and gets no bits of the target"
            )
        bits = target.value * mine.bits_per_pixel / chosen.bits_per_pixel
        shapes = bench.split.readers[level].shapes[: bench.split.num_images, :2]
        positions = int(shapes.prod(axis=1).sum())
        return LevelTarget(kind="bits", value=bits * bench.split.num_pixels / positions)
    errors = [measurements[str(run.folder)].mse for run in bench.runs if run.level == level]
    high = dropped_error(bench, level)
    drop_at = measured_drops(bench, level, measurements, high)
    low = min(*errors, high) * _BELOW_BEST
    share = target.value / len(bench.split.readers)
    mse = mse_for_drop(lambda mse: drop_at(mse, model) or 0.0, share, low, high)
    if mse is None:
        raise ConfigError(
            f"level {level}: no error is small enough for its part of the drop, {share:.3g}: "
            "name a larger --target-map-drop"
        )
    return LevelTarget(kind="mse", value=mse)
