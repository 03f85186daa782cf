"""Which run for which level, chosen by what is known of some images, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analyze.allocation.lagrangian import Allocated, Cost, Option, map_drop_cost, weighted_mse_cost
from analyze.allocation.search import Allocation, Target, search
from analyze.curves.rate_quality import rising
from analyze.facts.candidates import Candidate, learner_labels, runs_by_seed
from analyze.facts.contextual_runs import beside_labels
from analyze.facts.sent_parts import DERIVED, DROPPED, MeasuredRun, Part, RunCost
from analyze.measure.detection_study import DetectionStudy, Parts
from analyze.measure.split import Split
from analyze.streams.unsent_levels import Overhead

MapDrop = Callable[[Parts], float]
"""The mAP, 0..1, that some images lose with these parts in place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSplit:
    """A split, and what was measured on it."""

    split: Split
    runs: tuple[MeasuredRun, ...]
    overhead: Overhead
    detection: DetectionStudy | None
    """None where no mAP can be had."""
    seed: int | None = None
    """Of the runs, where there are others that differ in it only."""

    def by_seed(self) -> tuple[MeasuredSplit, ...]:
        """Return the same with the runs of one seed each, in rising order of the seeds."""
        return tuple(
            replace(self, seed=seed, runs=tuple(each for each in self.runs if each.run in chosen))
            for seed, chosen in runs_by_seed(each.run for each in self.runs).items()
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What is known of the images that choose: rate, error, and what detection loses."""

    sources: Mapping[int, int | None]
    """Level -> the level that it can be computed from."""
    runs: tuple[RunCost, ...]
    overhead: Overhead
    shares: Mapping[int, float]
    """Level -> its share of all elements, 0..1."""
    dropped_mse: Mapping[int, float]
    """Level -> its error where it is replaced by the mean that a receiver knows."""
    drop: MapDrop | None
    """None where no mAP can be had."""

    def options(self) -> list[Option]:
        """Return all that can be sent for each level, with what that costs on these images."""
        options: list[Option] = []
        names = option_names([each.run for each in self.runs])
        for level, source in sorted(self.sources.items()):
            own = [each for each in self.runs if each.run.level == level]
            dropped_mse = self.dropped_mse[level]
            drop_at = measured_drops(level, own, dropped_mse, self.drop)
            options += [
                Option(
                    level=level,
                    name=names[each.run.folder],
                    bits_per_pixel=each.bits_per_pixel,
                    mse=each.mse,
                    map_drop=drop_at(each.mse, each.run.model),
                    run=str(each.run.folder),
                    beside=_beside(each.run, names),
                )
                for each in own
            ]
            options.append(
                Option(
                    level=level, name="dropped", bits_per_pixel=self.overhead.dropped[level],
                    mse=dropped_mse, map_drop=drop_at(dropped_mse), kind="dropped",
                )
            )  # fmt: skip
            if source is not None:
                # A part of the source, with its error; what needs the detector to be derived, a
                # file of features cannot leave out.
                options += [
                    Option(
                        level=level, name=f"derived from {option.name}",
                        bits_per_pixel=self.overhead.derived[level],
                        mse=option.mse, map_drop=drop_at(option.mse), kind="derived",
                        source=(source, option.name),
                    )
                    for option in options
                    if option.level == source and option.kind == "run"
                ]  # fmt: skip
        return options


def option_names(runs: Sequence[Candidate]) -> dict[Path, str]:
    """Return `Candidate.folder` -> lambda, learner and context: runs of one seed differ in it."""
    learners, beside = learner_labels(runs), beside_labels(runs)
    return {
        run.folder: ", ".join(
            filter(None, (f"lambda {run.lmbda:.3g}", learners[run.model], beside[run.folder]))
        )
        for run in runs
    }


def _beside(run: Candidate, names: Mapping[Path, str]) -> tuple[int, str] | None:
    """Return the option that a contextual run needs; one that no level has if its run is gone."""
    if run.context is None:
        return None
    return run.context.level, names.get(run.context.folder, str(run.context.folder))


def choose(evidence: Evidence, target: Target) -> Allocation:
    """Return the best combination for the target, as far as these images tell."""
    run_parts = {str(each.run.folder): each.part for each in evidence.runs}
    cost: Cost
    if evidence.drop is not None and target.kind != "mse":
        cost = map_drop_cost
    else:
        cost = weighted_mse_cost(evidence.shares)
    verify = None
    if (drop := evidence.drop) is not None:
        run_detection = drop

        def verify(choice: Allocated) -> float:
            return run_detection(chosen_parts(choice, run_parts))

    # The options do not hold what their files share.
    within = replace(target, value=target.value - evidence.overhead.shared)
    found = search(evidence.options(), within if target.kind == "bpp" else target, cost, verify)
    return replace(found, target=target)


def chosen_parts(choice: Allocated, parts: Mapping[str, Part]) -> dict[int, Part]:
    """Return level -> what is sent of it; `parts` are run folder -> part."""
    return {
        option.level: parts[option.run]
        if option.run is not None
        else (DERIVED if option.kind == "derived" else DROPPED)
        for option in choice.options
    }


def evidence_of_all(measured: MeasuredSplit) -> Evidence:
    """Return what all analysed images of a split tell."""
    split, detection = measured.split, measured.detection
    if detection is not None:
        detection.prepare(looked_at_to_choose(split, [each.part for each in measured.runs]))
    return Evidence(
        sources={level: reader.info.derived_from for level, reader in split.readers.items()},
        runs=tuple(each.cost for each in measured.runs),
        overhead=measured.overhead,
        shares={level: facts.share for level, facts in split.facts().items()},
        dropped_mse={level: dropped_error(split, level) for level in split.readers},
        drop=drop_on_all(detection),
    )


def looked_at_to_choose(split: Split, parts: Iterable[Part]) -> list[Parts]:
    """Return all combinations that are evidence: each run alone, and each level gone."""
    alone: list[Parts] = [{part.run.level: part} for part in parts if part.run is not None]
    return [{}, *alone, *({level: DROPPED} for level in split.readers)]


def dropped_error(split: Split, level: int) -> float:
    """Return the MSE of a level that is replaced by the mean that a receiver knows."""
    statistics = split.readers[level].statistics
    off = statistics.mean - split.means.of(level)
    return float((statistics.variance + off**2).mean())


def drop_on_all(detection: DetectionStudy | None) -> MapDrop | None:
    """Return what all analysed images of a split lose; None without detection."""
    if detection is None:
        return None
    accuracy = detection.accuracy

    def drop(parts: Parts) -> float:
        found = accuracy(parts).drop
        assert found is not None, "only the original has none"
        return found

    return drop


def measured_drops(
    level: int, runs: Sequence[RunCost], dropped_mse: float, drop: MapDrop | None
) -> Callable[..., float | None]:
    """Return (MSE, learner or None) -> mAP drop of this level's own `runs`, as `rising_drops`.

    `dropped_mse` is the level's `dropped_error`.
    """
    if drop is None:
        return lambda mse, learner=None: None
    measured = [(each.run.model, each.mse, drop({level: each.part})) for each in runs]
    return rising_drops(measured, (dropped_mse, drop({level: DROPPED})))


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
