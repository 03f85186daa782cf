"""The levels' own table, and detection on whole pyramids and on single levels gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from analyze.facts.approaches import RANDOM_LEVEL, approach_of
from analyze.facts.candidates import Candidate, PlannedLevel, learner_labels, seeds_of
from analyze.facts.contextual_runs import beside_labels
from analyze.facts.results import AnalysisResult, Combination, LevelFacts, LevelRow
from analyze.facts.sent_parts import (
    Combined,
    MeasuredRun,
    Part,
    one_level_gone,
    parts_of,
    sent_pyramids,
)
from analyze.facts.whole_pyramids import pyramids_of_seeds
from analyze.measure.detection_study import DetectionStudy, Parts
from analyze.measure.split import Split
from analyze.streams.unsent_levels import Overhead

_LOG = logging.getLogger(__name__)


def analysis_result(
    split: Split,
    runs: Sequence[MeasuredRun],
    overhead: Overhead,
    detection: DetectionStudy | None,
    plan: tuple[PlannedLevel, ...] = (),
    shared: Sequence[MeasuredRun] = (),
) -> AnalysisResult:
    """Return what each run reaches alone and what whole pyramids reach.

    `plan` is of the analysis' own configuration: its pyramid counts, too. `shared` are runs of
    models for all levels, which make pyramids and nothing else. `detection` is None where no mAP
    can be had; nothing is derived then either.
    """
    manifest, facts = split.manifest, split.facts()
    candidates, of_shared = [each.run for each in runs], [each.run for each in shared]
    part_of = parts_of([*runs, *shared])
    wanted = wanted_combinations(split, candidates, part_of, detection, plan)
    wanted += shared_pyramids(split, of_shared, part_of, detection)
    if detection:
        detection.prepare(first_looked_at(candidates, part_of, wanted))
    mse_of = {str(each.run.folder): each.measurement.mse for each in (*runs, *shared)}
    labels, seeds = learner_labels(candidates), seeds_of(candidates)
    beside = beside_labels(candidates)
    rows = [
        LevelRow(
            facts=facts[each.run.level],
            measurement=each.measurement,
            alone=detection.accuracy({each.run.level: each.part}) if detection else None,
            learner=labels[each.run.model],
            model_sha256=each.run.model_sha256,
            seed=seeds[each.run.folder],
            beside=beside[each.run.folder],
            beside_run="" if each.run.context is None else str(each.run.context.folder),
        )
        for each in runs
    ]
    return AnalysisResult(
        dataset=manifest.dataset,
        split=manifest.split,
        detector=f"{manifest.detector['builder']} ({manifest.detector['weights_sha256'][:12]})",
        num_images=split.num_images,
        rows=_with_untrained(rows, facts),
        original=detection.accuracy({}) if detection else None,
        combinations=tuple(
            replace(
                combination(each, labels | _shared_labels(of_shared), overhead, detection),
                mse=pyramid_mse(split, each.parts, mse_of),
            )
            for each in wanted
        ),
        cache_fingerprint=manifest.fingerprint,
        classes=detection.classes() if detection else (),
        class_ap=detection.class_ap({}) if detection else (),
        only_classes=split.only_classes,
        num_pixels=split.num_pixels,
        num_positions=sum(
            int(reader.shapes[: split.num_images, :2].prod(axis=1).sum())
            for reader in split.readers.values()
        ),
        num_input_pixels=split.num_input_pixels,
    )


def wanted_combinations(
    split: Split,
    candidates: Sequence[Candidate],
    part_of: Mapping[str, Part],
    detection: DetectionStudy | None,
    plan: tuple[PlannedLevel, ...] = (),
) -> list[Combined]:
    """Return the pyramids that the runs make and, with detection, the levels gone in turn."""
    derivable = detection.derivations if detection else {}
    levels = sorted(split.readers)
    whole = pyramids_of_seeds(candidates, levels, derivable, plan)
    wanted = sent_pyramids(whole, part_of, derivable)
    if detection is None:
        return wanted
    sources = {level: each.source_level for level, each in derivable.items()}
    return wanted + one_level_gone(levels, sources)


def shared_pyramids(
    split: Split,
    candidates: Sequence[Candidate],
    part_of: Mapping[str, Part],
    detection: DetectionStudy | None,
) -> list[Combined]:
    """Return the pyramids that models for all levels make, each of one model."""
    derivable = detection.derivations if detection else {}
    whole = pyramids_of_seeds(candidates, sorted(split.readers), derivable)
    return [
        replace(each, name=f"{each.name}, {RANDOM_LEVEL}")
        for each in sent_pyramids(whole, part_of, derivable)
        if each.is_planned
    ]


def _shared_labels(candidates: Iterable[Candidate]) -> dict[str, str]:
    return {
        model: ", ".join(filter(None, (RANDOM_LEVEL, label)))
        for model, label in learner_labels(candidates).items()
    }


def pyramid_mse(
    split: Split, parts: Mapping[int, Part], mse_of: Mapping[str, float]
) -> float | None:
    """Return the error over the values of all levels; None where one is of no run's.

    `mse_of` is `Candidate.folder` -> the error of its level.
    """
    total = 0.0
    for level, facts in split.facts().items():
        source = split.readers[level].info.derived_from
        part = parts.get(level)
        if part is not None and part.kind == "derived" and source is not None:
            part = parts.get(source)
        if part is None or part.run is None:
            return None
        total += facts.share * mse_of[str(part.run.folder)]
    return total


def first_looked_at(
    candidates: Sequence[Candidate], part_of: Mapping[str, Part], wanted: Sequence[Combined]
) -> list[Parts]:
    """Return all combinations that detection is run on whatever it finds: see `analysis_result`."""
    alone: list[Parts] = [{run.level: part_of[str(run.folder)]} for run in candidates]
    return [{}, *alone, *(each.parts for each in wanted)]


def combination(
    combined: Combined,
    labels: Mapping[str, str],
    overhead: Overhead,
    detection: DetectionStudy | None,
) -> Combination:
    """Run detection on a combination, and count its bits; `labels` are `learner_labels`."""
    whole = combined.parts.keys() >= overhead.dropped.keys()
    accuracy = detection.accuracy(combined.parts) if detection else None
    if accuracy is not None:
        _LOG.info("%s: mAP %.4f", combined.name, accuracy.map)
    models = {part.run.model for part in combined.parts.values() if part.run is not None}
    if combined.learner is not None:
        models = {combined.learner}
    learners = {labels.get(model, "") for model in models}
    return Combination(
        name=combined.name,
        parts={
            level: part.kind if part.run is None else str(part.run.folder)
            for level, part in sorted(combined.parts.items())
        },
        bits_per_pixel=overhead.total(combined.parts) if whole else None,
        accuracy=accuracy,
        lmbda=combined.lmbda,
        learner=learners.pop() if len(learners) == 1 else "",
        is_planned=combined.is_planned,
        seed=combined.seed,
        over_seeds=""
        if combined.seed is None
        else combined.name.replace(f", seed {combined.seed}", "", 1),
        class_ap=detection.class_ap(combined.parts) if detection else (),
        approach=approach_of(part.run for part in combined.parts.values() if part.run is not None),
    )


def _with_untrained(
    rows: Sequence[LevelRow], facts: Mapping[int, LevelFacts]
) -> tuple[LevelRow, ...]:
    """Order by level then lambda, with an empty line for a level that has no run."""
    trained = {row.facts.level for row in rows}
    untrained = [each for level, each in facts.items() if level not in trained]
    empty = [LevelRow(facts=each, measurement=None, alone=None) for each in untrained]
    return tuple(sorted([*rows, *empty], key=lambda row: row.facts.level))
