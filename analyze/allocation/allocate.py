"""Which run for which level: options from what was measured, a search, and real runs to verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyze.allocation.lagrangian import Allocated, Option, map_drop_cost, weighted_mse_cost
from analyze.allocation.search import Allocation, Target, search
from analyze.curves.bjontegaard import RateMap, Saving, saving
from analyze.detection.sensitivity import rising
from analyze.facts.candidates import Candidate, learner_labels
from analyze.facts.results import Combination, Measurement
from analyze.facts.sent_parts import DERIVED, DROPPED, Combined, Part
from analyze.measure.level_results import combination, run_parts
from analyze.measure.workbench import Workbench
from analyze.streams.ensemble import CodedLevel, DerivedLevel, DroppedLevel, Ensemble, EnsembleLevel
from analyze.streams.unsent_levels import known_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class AllocationFinding:
    """What was chosen, what it really reaches, and what it saves."""

    allocation: Allocation
    combination: Combination
    saving: Saving
    ensemble: Ensemble
    shared_bits_per_pixel: float
    """Of the files' own headers, which no level is charged with."""


def allocate(
    bench: Workbench,
    measurements: Mapping[str, Measurement],
    pyramids: Iterable[Combination],
    target: Target,
) -> AllocationFinding | str:
    """Return the best combination of runs for the target, or a line about what is missing.

    `pyramids` are whole pyramids of one lambda each, with which it is compared.
    """
    levels = sorted(bench.split.readers)
    untrained = set(levels) - {run.level for run in bench.runs} - _derivable(bench)
    if untrained:
        names = ", ".join(map(str, sorted(untrained)))
        return f"no allocation: level {names} has no run: run train-level for it"
    if bench.detection is None and target.kind == "map_drop":
        return "no allocation: a target of mAP needs boxes: use --target-bpp or --target-mse"
    parts = run_parts(bench, measurements)
    options = _options(bench, measurements, parts)
    if bench.detection is not None and target.kind != "mse":
        cost = map_drop_cost()
    else:
        cost = weighted_mse_cost(
            {level: facts.share for level, facts in bench.split.facts().items()}
        )
    verify = None
    if bench.detection is not None:
        detection = bench.detection

        def verify(choice: Allocated) -> float:
            drop = detection.accuracy(_parts(choice, parts)).drop
            assert drop is not None, "only the original has none"
            return drop

    # The options do not hold what their files share.
    within = replace(target, value=target.value - bench.overhead.shared)
    found = search(options, within if target.kind == "bpp" else target, cost, verify)
    found = replace(found, target=target)
    chosen = combination(
        bench,
        Combined(name=_name(found), parts=_parts(found.combination, parts)),
    )
    return AllocationFinding(
        allocation=found,
        combination=chosen,
        saving=_saving(pyramids, chosen),
        ensemble=_ensemble(found.combination, {str(run.folder): run for run in bench.runs}),
        shared_bits_per_pixel=bench.overhead.shared,
    )


def _derivable(bench: Workbench) -> set[int]:
    return {info.index for info in bench.split.manifest.levels if info.derived_from is not None}


def _options(
    bench: Workbench, measurements: Mapping[str, Measurement], parts: Mapping[str, Part]
) -> list[Option]:
    options: list[Option] = []
    labels = learner_labels(bench.runs)
    for level, reader in sorted(bench.split.readers.items()):
        dropped_mse = dropped_error(bench, level)
        drop_at = measured_drops(bench, level, measurements, dropped_mse)
        for run in bench.runs:
            if run.level != level:
                continue
            mse = measurements[str(run.folder)].mse
            options.append(
                Option(
                    level=level,
                    name=f"lambda {run.lmbda:.3g}"
                    + (f", {labels[run.model]}" if labels[run.model] else ""),
                    bits_per_pixel=parts[str(run.folder)].bits_per_pixel,
                    mse=mse,
                    map_drop=drop_at(mse, run.model),
                    run=str(run.folder),
                )
            )
        options.append(
            Option(
                level=level, name="dropped", bits_per_pixel=bench.overhead.dropped[level],
                mse=dropped_mse, map_drop=drop_at(dropped_mse), kind="dropped",
            )
        )  # fmt: skip
        source = reader.info.derived_from
        if source is not None:
            # A part of the source, with its error; what needs the detector to be derived, a file
            # of features cannot leave out.
            options += [
                Option(
                    level=level, name=f"derived from {each.name}",
                    bits_per_pixel=bench.overhead.derived[level],
                    mse=each.mse, map_drop=drop_at(each.mse), kind="derived",
                    source=(source, each.name),
                )
                for each in options
                if each.level == source and each.kind == "run"
            ]  # fmt: skip
    return options


def dropped_error(bench: Workbench, level: int) -> float:
    """Return the MSE of a level that is replaced by the mean that a receiver knows."""
    statistics = bench.split.readers[level].statistics
    off = statistics.mean - known_mean(bench.split.cache, level)
    return float((statistics.variance + off**2).mean())


def measured_drops(
    bench: Workbench, level: int, measurements: Mapping[str, Measurement], dropped_mse: float
) -> Callable[..., float | None]:
    """Return (MSE, learner or None) -> mAP drop of this level's own codecs, as `rising_drops`.

    `dropped_mse` is the level's `dropped_error`.
    """
    if bench.detection is None:
        return lambda mse, learner=None: None
    parts = run_parts(bench, measurements)
    measured = [
        (
            run.model,
            measurements[str(run.folder)].mse,
            bench.detection.accuracy({level: parts[str(run.folder)]}).drop or 0.0,
        )
        for run in bench.runs
        if run.level == level
    ]
    dropped = bench.detection.accuracy({level: DROPPED}).drop or 0.0
    return rising_drops(measured, (dropped_mse, dropped))


def rising_drops(
    measured: Sequence[tuple[str, float, float]], dropped: tuple[float, float]
) -> Callable[..., float]:
    """Return (MSE, learner or None) -> mAP drop, of (learner, MSE, drop) and (MSE, drop) of none.

    It is made to rise with the MSE: a single run that seems to gain, or to lose more than one with
    a larger error, is the luck of the images. Learners are not compared with each other (another
    distortion may well give a larger MSE and a smaller drop); None: all of them together.
    """

    def drop_at(mse: float, learner: str | None = None) -> float:
        own = [(mse, drop) for name, mse, drop in measured if learner in (None, name)]
        places, drops = np.array(sorted([(0.0, 0.0), *own, dropped])).T
        return float(np.interp(mse, places, np.maximum(rising(drops), 0.0)))

    return drop_at


def _parts(choice: Allocated, parts: Mapping[str, Part]) -> dict[int, Part]:
    return {
        option.level: parts[option.run]
        if option.run is not None
        else (DERIVED if option.kind == "derived" else DROPPED)
        for option in choice.options
    }


def _ensemble(choice: Allocated, runs: Mapping[str, Candidate]) -> Ensemble:
    levels: dict[int, EnsembleLevel] = {}
    for option in choice.options:
        if option.run is not None:
            run = runs[option.run]
            levels[option.level] = CodedLevel(
                run=run.folder, model_sha256=run.model_sha256, lmbda=run.lmbda
            )
        elif option.source is not None:
            levels[option.level] = DerivedLevel(source=option.source[0])
        else:
            levels[option.level] = DroppedLevel()
    return Ensemble(levels)


def _name(found: Allocation) -> str:
    words = {"bpp": "bits per pixel", "map_drop": "mAP drop", "mse": "MSE"}[found.target.kind]
    reached = "" if found.met else ", NOT met"
    return f"allocated for a {words} of {found.target.value:g}{reached}"


def _saving(pyramids: Iterable[Combination], chosen: Combination) -> Saving:
    if chosen.accuracy is None or chosen.bits_per_pixel is None:
        return Saving(
            fraction=None, same_lambda_bits_per_pixel=None, why="there is no mAP to compare at"
        )
    curve = [
        RateMap(bits_per_pixel=each.bits_per_pixel, map=each.accuracy.map)
        for each in pyramids
        if each.lmbda is not None and each.accuracy is not None and each.bits_per_pixel is not None
    ]
    return saving(curve, RateMap(bits_per_pixel=chosen.bits_per_pixel, map=chosen.accuracy.map))
