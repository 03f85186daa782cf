"""Measure every run against one split's cache, then detection on what the codecs decoded."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analyze.allocation.allocate import AllocationFinding, allocate
from analyze.allocation.next_lambdas import Suggestion, next_lambdas
from analyze.allocation.search import Target
from analyze.anchors.anchor_study import AnchorPoint
from analyze.curves.comparison import anchor_study, compare
from analyze.detection.sensitivity import Sensitivity, measure_sensitivity
from analyze.facts.candidates import Candidate
from analyze.facts.kept_results import Kept
from analyze.facts.results import AnalysisResult, Measurement
from analyze.facts.sent_parts import DERIVED, DROPPED, Part
from analyze.measure.find_runs import trained_only
from analyze.measure.level_results import analysis_result, measured_runs, run_parts
from analyze.measure.matrix import Matrix, matrix_runs, measure_matrix
from analyze.measure.split import AnalysisRequest, has_cache
from analyze.measure.workbench import Workbench, open_workbench
from analyze.plots.picture_study import level_pictures, worst
from analyze.report.findings import Findings
from analyze.streams.ensemble import CodedLevel, DerivedLevel
from configs.errors import CacheError, ConfigError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is asked for beyond levels and detection."""

    target: Target
    is_named: bool = False
    """The target was asked for, and is not the usual one."""
    anchors: tuple[str, ...] = ()
    """Names of `analyze.anchors.catalogue`, or one's own as `package.module:name`."""
    matrix: bool = False
    sensitivity: bool = False
    suggest_lambda: bool = False


def analyze(request: AnalysisRequest, wanted: Wanted, scratch: Path, kept: Kept) -> Findings:
    """Analyse; decoded maps lie under `scratch` while it runs, results stay in `kept`.

    Raises CacheError if the split's cache is stale or damaged, or for runs trained on another
    detector's features. Anything else that is missing, the cache itself where there is one of the
    train split, is a line of the result.
    """
    if not has_cache(request):
        result, trained = trained_only(request)
        return Findings(result=result, trained=trained)
    with open_workbench(request, scratch, kept) as bench:
        measurements = measured_runs(bench)
        result = analysis_result(bench, measurements)
        missing = list(result.missing)
        sensitivity = _sensitivity(bench, missing) if wanted.sensitivity else None
        allocation = _allocation(bench, measurements, result, wanted.target, missing)
        anchors = _anchors(bench, wanted.anchors, missing)
        shown = _shown_runs(bench, allocation)
        name, parts = _shown_combination(bench, measurements, allocation, shown)
        matrix = _matrix(bench, missing) if wanted.matrix else None
        suggestions: tuple[Suggestion, ...] = ()
        if wanted.suggest_lambda:
            aim = wanted.target if wanted.is_named else None
            suggestions = next_lambdas(bench, measurements, allocation, aim, missing)
        return Findings(
            result=dataclasses.replace(
                result,
                missing=tuple(missing),
                combinations=(
                    *result.combinations, *([allocation.combination] if allocation else []),
                ),
            ),
            allocation=allocation,
            sensitivity=sensitivity,
            anchors=anchors,
            comparisons=compare(result, anchors),
            matrix=matrix,
            suggestions=suggestions,
            level_pictures=level_pictures(bench, shown),
            worst=worst(bench, name, parts) if parts else None,
        )  # fmt: skip


def _sensitivity(bench: Workbench, missing: list[str]) -> Sensitivity | None:
    if bench.split.evaluator is None:
        missing.append("no sensitivity: it needs detection, and so boxes")
        return None
    _LOG.info("sensitivity: noise in each level and each group of channels")
    try:
        return measure_sensitivity(bench.split.evaluator, bench.kept)
    except ConfigError as error:
        missing.append(f"no sensitivity: {error}")
        return None


def _anchors(
    bench: Workbench, names: tuple[str, ...], missing: list[str]
) -> tuple[AnchorPoint, ...]:
    if not names:
        return ()
    study = anchor_study(bench, names)
    missing.extend(study.missing)
    return study.points


def _matrix(bench: Workbench, missing: list[str]) -> Matrix | None:
    try:
        folders = matrix_runs(bench.runs, bench.random_runs)
        if not folders:
            return None
        return measure_matrix(
            folders,
            bench.split.readers,
            bench.split.num_images,
            bench.request.cache.parent / "train",
            bench.kept,
            bench.request.device,
        )
    except (CacheError, ConfigError) as error:
        missing.append(f"no matrix of models and levels: {error}")
        return None


def _allocation(
    bench: Workbench,
    measurements: Mapping[str, Measurement],
    result: AnalysisResult,
    target: Target,
    missing: list[str],
) -> AllocationFinding | None:
    found = allocate(bench, measurements, result.combinations, target)
    if isinstance(found, str):
        missing.append(found)
        return None
    return found


def _shown_runs(bench: Workbench, allocation: AllocationFinding | None) -> dict[int, Candidate]:
    """Return the run of each level whose pictures are shown: the allocated one, or the best."""
    shown: dict[int, Candidate] = {}
    for run in sorted(bench.runs, key=lambda run: -run.best_validation_loss):
        shown[run.level] = run
    if allocation is not None:
        by_folder = {run.folder: run for run in bench.runs}
        for level, each in allocation.ensemble.levels.items():
            if isinstance(each, CodedLevel):
                shown[level] = by_folder[each.run]
    return shown


def _shown_combination(
    bench: Workbench,
    measurements: Mapping[str, Measurement],
    allocation: AllocationFinding | None,
    shown: Mapping[int, Candidate],
) -> tuple[str, dict[int, Part]]:
    parts = run_parts(bench, measurements)
    if allocation is None:
        name = "the best run of each trained level, the others as cached"
        return name, {level: parts[str(run.folder)] for level, run in shown.items()}
    return allocation.combination.name, {
        level: parts[str(each.run)]
        if isinstance(each, CodedLevel)
        else (DERIVED if isinstance(each, DerivedLevel) else DROPPED)
        for level, each in allocation.ensemble.levels.items()
    }
