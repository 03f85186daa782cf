"""Measure every run against one split's cache, then detection on what the codecs decoded."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from analyze.allocation.allocate import AllocationFinding
from analyze.allocation.next_lambdas import Suggestion, next_lambdas
from analyze.anchors.anchor_points import AnchorStudy
from analyze.anchors.anchor_split import AnchorSplit
from analyze.anchors.anchor_study import study_anchors
from analyze.anchors.catalogue import find_anchor
from analyze.choosing import (
    find_allocations,
    measured_runs,
    measured_split,
    open_choosing,
    split_of,
)
from analyze.curves.approach_figures import approach_figures
from analyze.curves.comparison import compare
from analyze.detection.sensitivity import Sensitivity, measure_sensitivity
from analyze.detection.split_evaluator import SplitEvaluator
from analyze.facts.approaches import OURS, RANDOM_LEVEL
from analyze.facts.candidates import Candidate, newest_runs, plan_of, predicted_ways
from analyze.facts.kept_results import Kept
from analyze.facts.results import Found, next_step
from analyze.facts.sent_parts import parts_of
from analyze.fused.fused_study import study_fused
from analyze.measure.approach_cost import costs_of_combinations
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.find_runs import (
    TrainedRuns,
    left_out_lines,
    newest_of_levels,
    run_folders,
    trained_only,
    trained_runs,
)
from analyze.measure.level_results import analysis_result
from analyze.measure.matrix import Matrix, left_out, matrix_runs, measure_matrix
from analyze.measure.split import Split, has_cache
from analyze.plots.picture_study import level_pictures, worst
from analyze.report.findings import Findings
from analyze.request import AnalysisRequest, Wanted
from configs.errors import CacheError, ConfigError
from configs.trusted_code import trusted_code
from data.cache.cache_folder import CacheFolder
from train.runs.loaded_models import LoadedModels

_LOG = logging.getLogger(__name__)


def analyze(request: AnalysisRequest, wanted: Wanted, scratch: Path | str, kept: Kept) -> Findings:
    """Analyse; decoded maps lie under `scratch` while it runs, results stay in `kept`.

    Raises CacheError if the split's cache is stale or damaged, or for runs trained on another
    detector's features. Anything else that is missing, the cache itself where there is one of the
    train split, is a line of the result.
    """
    models, cache = models_of(request), CacheFolder(request.cache)
    folders = _run_folders(request)
    if not has_cache(cache):
        result, trained = trained_only(
            folders, cache, models, split=request.split, options=request.options
        )
        step = next_step(
            request.split, request.options, known_splits=request.config.data.splits,
            has_cache=False, has_runs=bool(trained), no_detection=(),
        )  # fmt: skip
        return Findings(result=dataclasses.replace(result, next_step=step), trained=trained)
    with ExitStack() as stack:
        choosing = stack.enter_context(open_choosing(request, wanted, cache, models.device))
        split = stack.enter_context(split_of(request, cache, models.device))
        found = trained_runs(folders, cache, models)
        newest = newest_found(request, found, split)
        folder = Path(stack.enter_context(scratch_folder(Path(scratch))))
        decoded = DecodedLevels(folder, split.readers, split.num_images, models)
        measured = measured_split(
            split, newest.result, decoded, models, kept,
            image_by_image=bool(choosing.folds) or wanted.per_image,
            is_one_of_two=choosing.split is not None,
        )  # fmt: skip
        runs, detection = measured.runs, measured.detection
        plan = plan_of(request.config, split.readers)
        shared = measured_runs(
            split, shared_runs(found, split), decoded, models, kept, more=RANDOM_LEVEL
        )
        result = analysis_result(split, runs, measured.overhead, detection, plan, shared)
        fused = study_fused(found.fused, split, decoded, measured.overhead, detection, models, kept)
        result = dataclasses.replace(
            result,
            combinations=(*result.combinations, *(each.combination for each in fused.result)),
        )

        sensitivity: Found[Sensitivity | None] = Found(None)
        if wanted.sensitivity:
            sensitivity = _sensitivity(split.evaluator, kept)
        approaches = approach_figures(result)
        costs = costs_of_combinations(
            {each.approach: each.combination for each in approaches if each.combination},
            [each.run for each in (*runs, *shared)], split, models,
            known={each.combination.name: each.cost for each in fused.result},
        )  # fmt: skip
        own_pyramids = [each for each in result.combinations if each.approach in OURS]
        allocations = find_allocations(
            choosing, measured, own_pyramids, wanted.target, models, kept, folder,
            per_image=wanted.per_image,
        )  # fmt: skip
        allocation = next(iter(allocations.result), None)
        of_one_seed = measured.by_seed()[0].runs
        anchors = _anchors(wanted.anchors, split, detection, kept, folder, models.device)
        matrix: Found[Matrix | None] = Found(None)
        if wanted.matrix:
            matrix = _matrix([each.run for each in of_one_seed], found.random, split, models, kept)
        suggestions: Found[tuple[Suggestion, ...]] = Found(())
        if wanted.suggest_lambda:
            aim = wanted.target if wanted.is_named else None
            coded = [each for each in of_one_seed if not each.run.is_predicted]
            suggestions = next_lambdas(split, coded, detection, allocation, aim)
        shown = _shown_runs(newest.result, allocation)
        if allocation is not None:
            name, parts = allocation.combination.name, allocation.parts
        else:
            name = "the best run of each trained level, the others as cached"
            parts = {level: parts_of(runs)[str(run.folder)] for level, run in shown.items()}
        chosen = [each for one in allocations.result for each in one.combinations]
        return Findings(
            result=dataclasses.replace(
                result,
                missing=(
                    *split.missing,
                    *found.missing,
                    *newest.missing,
                    *(left_out_lines(found.special, newest.result) if request.run_dirs else ()),
                    *sensitivity.missing,
                    *allocations.missing,
                    *anchors.missing,
                    *fused.missing,
                    *matrix.missing,
                    *suggestions.missing,
                ),
                combinations=(*result.combinations, *chosen),
                next_step=next_step(
                    request.split,
                    request.options,
                    known_splits=request.config.data.splits,
                    has_cache=True,
                    has_runs=bool(runs),
                    no_detection=split.missing,
                ),
            ),
            allocation=allocation,
            other_seeds=allocations.result[1:],
            sensitivity=sensitivity.result,
            anchors=anchors.points,
            comparisons=compare(result, anchors.points),
            approaches=approaches,
            approach_costs=costs,
            fused=fused.result,
            matrix=matrix.result,
            suggestions=suggestions.result,
            level_pictures=level_pictures(shown, split, decoded, models),
            worst=worst(split, detection, name, parts) if parts else None,
        )


def models_of(request: AnalysisRequest) -> LoadedModels:
    """Return where an analysis has its codecs from; none is read yet."""
    never = request.config.model.fast_cpu == "never"
    trust = request.trust_code
    if trust is None:
        trust = trusted_code(request.config)
    return LoadedModels(request.device, fast_cpu="never" if never else None, trust_code=trust)


def runs_of(request: AnalysisRequest, split: Split, models: LoadedModels) -> tuple[Candidate, ...]:
    """Return the runs whose levels an analysis compares; raises as `analyze`."""
    return newest_found(request, found_runs(request, split, models), split).result


def found_runs(request: AnalysisRequest, split: Split, models: LoadedModels) -> TrainedRuns:
    """Return all runs that an analysis finds; raises as `analyze`."""
    return trained_runs(_run_folders(request), split.cache, models)


def shared_runs(found: TrainedRuns, split: Split) -> list[Candidate]:
    """Return the newest models for all levels of each kind, of each of the split's levels."""
    return [run for run in newest_runs(found.shared) if run.level in split.readers]


def newest_found(
    request: AnalysisRequest, found: TrainedRuns, split: Split
) -> Found[tuple[Candidate, ...]]:
    """Return the newest run of each kind among those that were found, and what is missing."""
    looked_in = "the named runs" if request.run_dirs else str(request.checkpoints)
    derivable = split.manifest.derived_levels
    newest = newest_of_levels(
        found.special, split.readers, looked_in=looked_in,
        split=request.split, options=request.options, derivable=derivable,
    )  # fmt: skip
    predicted = [way for run in newest.result for way in predicted_ways(run)]
    return Found((*newest.result, *predicted), newest.missing)


def _run_folders(request: AnalysisRequest) -> list[Path]:
    return run_folders(Path(request.checkpoints), [Path(run) for run in request.run_dirs])


def scratch_folder(parent: Path) -> TemporaryDirectory[str]:
    """Return a new folder for decoded maps; ConfigError if it cannot be made."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=parent, prefix=".decoded-")
    except OSError as error:
        raise ConfigError(
            f"{parent}: cannot be written ({error.strerror}): choose another --report"
        ) from error


def _sensitivity(evaluator: SplitEvaluator | None, kept: Kept) -> Found[Sensitivity | None]:
    if evaluator is None:
        return Found(None, ("no sensitivity: it needs detection, and so boxes",))
    _LOG.info("sensitivity: noise in each level and each group of channels")
    try:
        return Found(measure_sensitivity(evaluator, kept))
    except ConfigError as error:
        return Found(None, (f"no sensitivity: {error}",))


def _anchors(
    names: Sequence[str],
    split: Split,
    detection: DetectionStudy | None,
    kept: Kept,
    scratch: Path,
    device: str,
) -> AnchorStudy:
    if not names:
        return AnchorStudy(points=(), missing=())
    known = anchor_split(split, detection, device)
    return study_anchors({name: find_anchor(name) for name in names}, known, kept, scratch)


def anchor_split(split: Split, detection: DetectionStudy | None, device: str) -> AnchorSplit:
    """Return a split as anchors are measured on it."""
    return AnchorSplit(
        train_cache=split.train,
        readers=split.readers,
        num_images=split.num_images,
        evaluator=split.evaluator,
        as_cached=(lambda: detection.evaluation({}).accuracy) if detection else None,
        derivations=detection.derivations if detection else {},
        device=device,
    )


def _matrix(
    runs: Sequence[Candidate],
    random_runs: Sequence[Path],
    split: Split,
    models: LoadedModels,
    kept: Kept,
) -> Found[Matrix | None]:
    try:
        folders = matrix_runs(runs, random_runs, models)
        notes = left_out(runs)
        if not folders:
            return Found(None, tuple(f"no matrix of models and levels: {note}" for note in notes))
        matrix = measure_matrix(folders, split.readers, split.num_images, split.train, models, kept)
        return Found(dataclasses.replace(matrix, notes=(*matrix.notes, *notes)))
    except (CacheError, ConfigError) as error:
        return Found(None, (f"no matrix of models and levels: {error}",))


def _shown_runs(
    runs: Sequence[Candidate], allocation: AllocationFinding | None
) -> dict[int, Candidate]:
    """Return the run of each level whose pictures are shown: the allocated one, or the best."""
    shown: dict[int, Candidate] = {}
    runs = [run for run in runs if not run.is_predicted]
    for run in sorted(runs, key=lambda run: -run.best_validation_loss):
        shown[run.level] = run
    if allocation is not None:
        sent = (part.run for part in allocation.parts.values())
        shown.update({run.level: run for run in sent if run is not None and not run.is_predicted})
    return shown
