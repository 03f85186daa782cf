"""Which run for which level: options from what was measured, a search, and real runs to verify."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyze.allocation.lagrangian import Allocated, Cost, Option, map_drop_cost, weighted_mse_cost
from analyze.allocation.search import Allocation, Target, search
from analyze.curves.bjontegaard import RateMap, Saving, saving
from analyze.curves.rate_quality import rising
from analyze.facts.candidates import Candidate, learner_labels
from analyze.facts.results import Combination, Found
from analyze.facts.sent_parts import DERIVED, DROPPED, Combined, MeasuredRun, Part, parts_of
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.level_results import combination
from analyze.measure.split import Split
from analyze.streams.ensemble import CodedLevel, DerivedLevel, DroppedLevel, Ensemble, EnsembleLevel
from analyze.streams.unsent_levels import Overhead


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
    split: Split,
    runs: Sequence[MeasuredRun],
    overhead: Overhead,
    detection: DetectionStudy | None,
    pyramids: Iterable[Combination],
    target: Target,
) -> Found[AllocationFinding | None]:
    """Return the best combination of runs for the target, or what is missing for it.

    `pyramids` are whole pyramids of one lambda each, with which it is compared.
    """
    derivable = {info.index for info in split.manifest.levels if info.derived_from is not None}
    untrained = split.readers.keys() - {each.run.level for each in runs} - derivable
    if untrained:
        names = ", ".join(map(str, sorted(untrained)))
        return Found(None, (f"no allocation: level {names} has no run: run train-level for it",))
    if detection is None and target.kind == "map_drop":
        return Found(None, (
            "no allocation: a target of mAP needs boxes: use --target-bpp or --target-mse",
        ))  # fmt: skip
    parts, labels = parts_of(runs), learner_labels(each.run for each in runs)
    by_folder = {str(each.run.folder): each.run for each in runs}
    options = _options(split, runs, overhead, detection)
    cost: Cost
    if detection is not None and target.kind != "mse":
        cost = map_drop_cost
    else:
        cost = weighted_mse_cost({level: facts.share for level, facts in split.facts().items()})
    verify = None
    if detection is not None:
        run_detection = detection.accuracy

        def verify(choice: Allocated) -> float:
            drop = run_detection(_parts(choice, parts)).drop
            assert drop is not None, "only the original has none"
            return drop

    # The options do not hold what their files share.
    within = replace(target, value=target.value - overhead.shared)
    found = search(options, within if target.kind == "bpp" else target, cost, verify)
    found = replace(found, target=target)
    chosen = combination(
        Combined(name=_name(found), parts=_parts(found.combination, parts)),
        labels,
        overhead,
        detection,
    )
    return Found(
        AllocationFinding(
            allocation=found,
            combination=chosen,
            saving=_saving(pyramids, chosen),
            ensemble=_ensemble(found.combination, by_folder),
            shared_bits_per_pixel=overhead.shared,
        )
    )


def _options(
    split: Split,
    runs: Sequence[MeasuredRun],
    overhead: Overhead,
    detection: DetectionStudy | None,
) -> list[Option]:
    options: list[Option] = []
    labels = learner_labels(each.run for each in runs)
    for level, reader in sorted(split.readers.items()):
        own = [each for each in runs if each.run.level == level]
        dropped_mse = dropped_error(split, level)
        drop_at = measured_drops(level, own, dropped_mse, detection)
        options += [
            Option(
                level=level,
                name=f"lambda {each.run.lmbda:.3g}"
                + (f", {labels[each.run.model]}" if labels[each.run.model] else ""),
                bits_per_pixel=each.measurement.bits_per_pixel,
                mse=each.measurement.mse,
                map_drop=drop_at(each.measurement.mse, each.run.model),
                run=str(each.run.folder),
            )
            for each in own
        ]
        options.append(
            Option(
                level=level, name="dropped", bits_per_pixel=overhead.dropped[level],
                mse=dropped_mse, map_drop=drop_at(dropped_mse), kind="dropped",
            )
        )  # fmt: skip
        source = reader.info.derived_from
        if source is not None:
            # A part of the source, with its error; what needs the detector to be derived, a file
            # of features cannot leave out.
            options += [
                Option(
                    level=level, name=f"derived from {option.name}",
                    bits_per_pixel=overhead.derived[level],
                    mse=option.mse, map_drop=drop_at(option.mse), kind="derived",
                    source=(source, option.name),
                )
                for option in options
                if option.level == source and option.kind == "run"
            ]  # fmt: skip
    return options


def dropped_error(split: Split, level: int) -> float:
    """Return the MSE of a level that is replaced by the mean that a receiver knows."""
    statistics = split.readers[level].statistics
    off = statistics.mean - split.means.of(level)
    return float((statistics.variance + off**2).mean())


def measured_drops(
    level: int,
    runs: Sequence[MeasuredRun],
    dropped_mse: float,
    detection: DetectionStudy | None,
) -> Callable[..., float | None]:
    """Return (MSE, learner or None) -> mAP drop of this level's own `runs`, as `rising_drops`.

    `dropped_mse` is the level's `dropped_error`.
    """
    if detection is None:
        return lambda mse, learner=None: None
    measured = [
        (
            each.run.model,
            each.measurement.mse,
            detection.accuracy({level: each.part}).drop or 0.0,
        )
        for each in runs
    ]
    dropped = detection.accuracy({level: DROPPED}).drop or 0.0
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
