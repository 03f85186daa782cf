"""Which run for which level: the choice, what it really reaches, and what it saves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from analyze.allocation.choice import MeasuredSplit, choose, chosen_parts, evidence_of_all
from analyze.allocation.cross_fit import CrossFit, cross_fit
from analyze.allocation.image_evidence import ImageEvidence
from analyze.allocation.lagrangian import Allocated
from analyze.allocation.per_image_allocation import PerImageFinding
from analyze.allocation.search import Allocation, Target
from analyze.allocation.weighed_ways import WeighedWays, weighed_ways
from analyze.curves.bjontegaard import RateMap, Saving, saving
from analyze.facts.candidates import Candidate, learner_labels
from analyze.facts.results import ChosenBy, Combination, Found
from analyze.facts.sent_parts import Combined, Part, parts_of
from analyze.measure.level_results import combination
from analyze.streams.ensemble import (
    CodedLevel,
    DerivedLevel,
    DroppedLevel,
    Ensemble,
    EnsembleLevel,
    PredictedLevel,
)
from configs.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class AllocationFinding:
    """What was chosen, what it really reaches, and what it saves."""

    allocation: Allocation
    """Its figures are of the images that chose."""
    combination: Combination
    """Its figures are of the split under analysis."""
    saving: Saving
    """Of `honest`."""
    ensemble: Ensemble
    parts: Mapping[int, Part]
    """Level -> what the ensemble sends of it."""
    shared_bits_per_pixel: float
    """Of the files' own headers, which no level is charged with, on the images that chose."""
    weighed: WeighedWays
    """All that could be sent, from which images can choose themselves."""
    cross_fit: CrossFit | None = None
    per_image: PerImageFinding | None = None

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Return all that was measured of it."""
        found = (self.combination,) if self.cross_fit is None else (self.combination, self.honest)
        own = self.per_image
        return found if own is None else (*found, own.alike, own.combination)

    @property
    def honest(self) -> Combination:
        """The cross-fitted figures where there are some, else those of the combination."""
        return self.combination if self.cross_fit is None else self.cross_fit.combination


def allocate(
    measured: MeasuredSplit,
    chosen_on: MeasuredSplit,
    pyramids: Iterable[Combination],
    target: Target,
) -> Found[AllocationFinding | None]:
    """Return the best combination of runs for the target, or what is missing for it.

    `chosen_on`, which may be the same split, chooses, and holds the same runs and levels.
    `pyramids` are whole pyramids of one lambda each, with which it is compared.
    """
    split, runs = measured.split, measured.runs
    derivable = split.manifest.derived_levels
    untrained = split.readers.keys() - {each.run.level for each in runs} - derivable
    seed = "" if measured.seed is None else f", seed {measured.seed}"
    if untrained:
        names = ", ".join(map(str, sorted(untrained)))
        return Found(None, (
            f"no allocation{seed}: level {names} has no run: run train-level for it",
        ))  # fmt: skip
    if chosen_on.detection is None and target.kind == "map_drop":
        other = chosen_on.split.manifest.split
        where = "" if chosen_on.split is split else f" in the split {other!r}"
        return Found(None, (
            f"no allocation: a target of mAP needs boxes{where}: use --target-bpp or --target-mse",
        ))  # fmt: skip
    evidence = evidence_of_all(chosen_on)
    found = choose(evidence, target)
    by_folder = {str(each.run.folder): each.run for each in runs}
    parts = chosen_parts(found.combination, parts_of(runs))
    chosen_by = ChosenBy(
        split=chosen_on.split.manifest.split,
        num_images=chosen_on.split.num_images,
        measured_on=split.manifest.split,
        num_measured=split.num_images,
    )
    how = "" if chosen_by.is_same else f", {chosen_by.text}"
    chosen = combination(
        Combined(name=_name(found) + how + seed, parts=parts, seed=measured.seed),
        learner_labels(each.run for each in runs),
        measured.overhead,
        measured.detection,
    )
    over_seeds = _aim(target) + how if seed else ""
    chosen = replace(chosen, chosen_by=chosen_by, over_seeds=over_seeds)
    return Found(
        AllocationFinding(
            allocation=found,
            combination=chosen,
            saving=_saving(pyramids, chosen),
            ensemble=_ensemble(found.combination, by_folder),
            parts=parts,
            shared_bits_per_pixel=chosen_on.overhead.shared,
            weighed=weighed_ways(evidence.options(), by_folder, evidence.shares),
        )
    )


def cross_fitted(
    found: AllocationFinding,
    measured: MeasuredSplit,
    evidence: ImageEvidence,
    folds: Sequence[Sequence[int]],
    pyramids: Iterable[Combination],
) -> Found[AllocationFinding]:
    """Return an allocation with its cross-fitted figures, or without, and why."""
    target = found.allocation.target
    name = f"{_aim(target)}, cross-fitted over {len(folds)} folds"
    try:
        fitted = cross_fit(measured, evidence, folds, target, name)
    except ConfigError as error:
        return Found(found, (f"no cross-fitting: {error}",))
    if measured.seed is not None:
        of_seed = replace(
            fitted.combination, name=f"{name}, seed {measured.seed}", seed=measured.seed,
            over_seeds=name,
        )  # fmt: skip
        fitted = replace(fitted, combination=of_seed)
    flattering, honest = found.combination.accuracy, fitted.combination.accuracy
    if flattering is not None and honest is not None:
        fitted = replace(fitted, optimism=flattering.map - honest.map)
    return Found(replace(found, cross_fit=fitted, saving=_saving(pyramids, fitted.combination)))


def _ensemble(choice: Allocated, runs: Mapping[str, Candidate]) -> Ensemble:
    levels: dict[int, EnsembleLevel] = {}
    for option in choice.options:
        if option.run is not None:
            run = runs[option.run]
            way = PredictedLevel if run.is_predicted else CodedLevel
            levels[option.level] = way(
                run=run.model_folder, model_sha256=run.model_sha256, lmbda=run.lmbda
            )
        elif option.source is not None:
            levels[option.level] = DerivedLevel(source=option.source[0])
        else:
            levels[option.level] = DroppedLevel()
    return Ensemble(levels)


def _name(found: Allocation) -> str:
    return _aim(found.target) + ("" if found.met else ", NOT met")


def _aim(target: Target) -> str:
    words = {"bpp": "bits per pixel", "map_drop": "mAP drop", "mse": "MSE"}[target.kind]
    return f"allocated for a {words} of {target.value:g}"


def _saving(pyramids: Iterable[Combination], chosen: Combination) -> Saving:
    if chosen.accuracy is None or chosen.bits_per_pixel is None:
        return Saving(
            fraction=None, same_lambda_bits_per_pixel=None, why="there is no mAP to compare at"
        )
    curve = [
        RateMap(bits_per_pixel=each.bits_per_pixel, map=each.accuracy.map)
        for each in pyramids
        if each.seed in (None, chosen.seed)
        and each.lmbda is not None
        and each.accuracy is not None
        and each.bits_per_pixel is not None
    ]
    return saving(curve, RateMap(bits_per_pixel=chosen.bits_per_pixel, map=chosen.accuracy.map))
