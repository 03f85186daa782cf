"""The levels' own table, and detection on whole pyramids and on single levels gone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from analyze.facts.candidates import learner_labels, pyramids
from analyze.facts.results import AnalysisResult, Combination, LevelFacts, LevelRow, Measurement
from analyze.facts.sent_parts import Combined, Part, one_level_gone, sent_pyramids
from analyze.measure.workbench import Workbench

_LOG = logging.getLogger(__name__)


def measured_runs(bench: Workbench) -> dict[str, Measurement]:
    """Return run folder -> rate and distortion; each level's cache is read once per run."""
    return {str(run.folder): bench.levels.measure(run) for run in bench.runs}


def analysis_result(bench: Workbench, measurements: Mapping[str, Measurement]) -> AnalysisResult:
    """Return what each run reaches alone and what whole pyramids reach."""
    split, detection = bench.split, bench.detection
    manifest, facts = split.manifest, split.facts()
    parts = run_parts(bench, measurements)
    wanted = sent_pyramids(
        pyramids(bench.runs, sorted(facts), bench.derivations), parts, bench.derivations
    )
    if detection:
        sources = {level: each.source_level for level, each in bench.derivations.items()}
        wanted += one_level_gone(sorted(facts), sources)
        alone = [{run.level: parts[str(run.folder)]} for run in bench.runs]
        detection.prepare([{}, *alone, *(each.parts for each in wanted)])
    labels = learner_labels(bench.runs)
    rows = [
        LevelRow(
            facts=facts[run.level],
            measurement=measurements[str(run.folder)],
            alone=detection.accuracy({run.level: parts[str(run.folder)]}) if detection else None,
            learner=labels[run.model],
            model_sha256=run.model_sha256,
        )
        for run in bench.runs
    ]
    return AnalysisResult(
        dataset=manifest.dataset,
        split=manifest.split,
        detector=f"{manifest.detector['builder']} ({manifest.detector['weights_sha256'][:12]})",
        num_images=split.num_images,
        rows=_with_untrained(rows, facts),
        original=detection.accuracy({}) if detection else None,
        combinations=tuple(combination(bench, each) for each in wanted),
        missing=tuple(split.missing),
        cache_fingerprint=manifest.fingerprint,
    )


def run_parts(bench: Workbench, measurements: Mapping[str, Measurement]) -> dict[str, Part]:
    """Return run folder -> what sending its level by it costs."""
    return {
        str(run.folder): Part(
            kind="run", run=run, bits_per_pixel=measurements[str(run.folder)].bits_per_pixel
        )
        for run in bench.runs
    }


def combination(bench: Workbench, combined: Combined) -> Combination:
    """Run detection on a combination."""
    whole = combined.parts.keys() >= bench.split.readers.keys()
    accuracy = bench.detection.accuracy(combined.parts) if bench.detection else None
    if accuracy is not None:
        _LOG.info("%s: mAP %.4f", combined.name, accuracy.map)
    labels = learner_labels(bench.runs)
    learners = {labels[part.run.model] for part in combined.parts.values() if part.run is not None}
    return Combination(
        name=combined.name,
        parts={
            level: part.kind if part.run is None else str(part.run.folder)
            for level, part in sorted(combined.parts.items())
        },
        bits_per_pixel=bench.overhead.total(combined.parts) if whole else None,
        accuracy=accuracy,
        lmbda=combined.lmbda,
        learner=learners.pop() if len(learners) == 1 else "",
    )


def _with_untrained(
    rows: Sequence[LevelRow], facts: Mapping[int, LevelFacts]
) -> tuple[LevelRow, ...]:
    """Order by level then lambda, with an empty line for a level that has no run."""
    trained = {row.facts.level for row in rows}
    untrained = [each for level, each in facts.items() if level not in trained]
    empty = [LevelRow(facts=each, measurement=None, alone=None) for each in untrained]
    return tuple(sorted([*rows, *empty], key=lambda row: row.facts.level))
