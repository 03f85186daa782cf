"""Find the trained runs that an analysis is about, and what is known of them without a split."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

from analyze.facts.candidates import Candidate, learner, learner_labels, newest_runs
from analyze.facts.results import AnalysisResult, LevelRow
from analyze.measure.split import AnalysisRequest, level_facts, missing_cache
from configs.errors import CacheError, ConfigError
from data.cache.manifest import Manifest
from train.runs.checkpoint import BEST_NAME, RunInfo, read_run_info
from train.runs.metrics import METRICS_NAME, EpochMetrics, read_rows
from train.runs.run_folder import RANDOM, find_random_runs, find_runs


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRuns:
    """Runs of one level each, and runs of `--level random`."""

    special: tuple[Candidate, ...]
    random: tuple[Path, ...]


def trained_runs(
    checkpoints: Path, run_dirs: Sequence[Path], manifest: Manifest, cache: Path
) -> TrainedRuns:
    """Read every run's facts, of `run_dirs` or of all below `checkpoints`.

    Raises ConfigError for a folder without a run, CacheError for a run whose features came from
    another detector than this cache's.
    """
    special, random = [], []
    for folder in _folders(checkpoints, run_dirs):
        run = read_run_info(folder / BEST_NAME)
        _require_same_detector(run, manifest, folder, cache)
        if len(run.levels) > 1:
            random.append(folder)
        else:
            special.append(
                Candidate(
                    folder=folder,
                    level=run.level,
                    lmbda=run.lmbda,
                    best_validation_loss=run.best_validation_loss,
                    model=learner(run.config),
                    model_sha256=run.model_sha256,
                )
            )
    return TrainedRuns(special=tuple(special), random=tuple(random))


def untrained_lines(
    levels: Collection[int], runs: TrainedRuns, where: str, split: str, options: str
) -> list[str]:
    """Say which cached level has no run, and which run's level is not cached, and what to do."""
    trained = {candidate.level for candidate in runs.special}
    return [
        f"level {level} has no trained run in {where}: run train-level --level {level}{options}"
        for level in sorted(levels)
        if level not in trained
    ] + [
        f"level {level} was trained, but this cache does not hold it: "
        f"run extract-features --split {split}{options} with that level"
        for level in sorted(trained - set(levels))
    ]


def left_out_lines(named: Collection[Candidate], taken: Collection[Candidate]) -> list[str]:
    """Say which of the named runs a newer one of the same level, lambda and learner replaces."""
    kind = attrgetter("level", "lmbda", "model")
    newest = {kind(run): run.folder for run in taken}
    return [
        f"{run.folder} is left out: {newest[kind(run)]} is of the same level, lambda, model and "
        "distortion, and newer: analyse it by itself, with another --report"
        for run in named
        if newest.get(kind(run), run.folder) != run.folder
    ]


def _folders(checkpoints: Path, run_dirs: Sequence[Path]) -> list[Path]:
    if not run_dirs:
        found = [run.folder for run in find_runs(checkpoints)]
        return found + find_random_runs(checkpoints)
    for folder in run_dirs:
        if not (folder / BEST_NAME).is_file():
            raise ConfigError(
                f"{folder}: no run: it holds no {BEST_NAME}: "
                f"name folders such as checkpoints/fpn_..._level_0/run_... or ..._{RANDOM}_..."
            )
    return list(run_dirs)


def _require_same_detector(run: RunInfo, manifest: Manifest, folder: Path, cache: Path) -> None:
    made_by = manifest.detector["weights_sha256"]
    if run.detector_weights_sha256 != made_by:
        raise CacheError(
            f"{folder}: was trained on features of detector weights "
            f"{run.detector_weights_sha256[:12]}, the cache {cache} is of {made_by[:12]}: name the "
            "runs that belong to this cache, or extract it anew"
        )


_KNOWN_FROM = "train"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A run's best epoch, on the val split that it was validated on; rates are estimated."""

    level: int
    lmbda: float
    learner: str
    """As of `LevelRow`."""
    epoch: int
    loss: float
    mse: float | None
    """In the features' own units squared; None where metrics.csv has lost the epoch."""
    bpp: float | None
    """Bits per feature position, from the likelihoods."""
    run: str


def trained_only(request: AnalysisRequest) -> tuple[AnalysisResult, tuple[TrainedRun, ...]]:
    """Return the levels of the train cache beside the missing one, and the best epochs of all runs.

    Raises CacheError where there is no train cache, or no run, either.
    """
    missing = missing_cache(request)
    beside = request.cache.with_name(_KNOWN_FROM)
    try:
        manifest = Manifest.load(beside)
    except CacheError:
        raise missing from None
    runs = newest_runs(
        trained_runs(request.checkpoints, request.run_dirs, manifest, beside).special
    )
    if not runs:
        raise missing
    labels = learner_labels(runs)
    result = AnalysisResult(
        dataset=manifest.dataset,
        split=request.split,
        detector=f"{manifest.detector['builder']} ({manifest.detector['weights_sha256'][:12]})",
        num_images=0,
        rows=tuple(
            LevelRow(facts=facts, measurement=None, alone=None) for facts in level_facts(manifest)
        ),
        original=None,
        combinations=(),
        missing=(
            f"{missing}: without it there are no bitstreams and no detection, only what training "
            "noted of each run's best epoch on its own val split",
        ),
    )
    return result, tuple(_best_epoch(run, labels[run.model]) for run in runs)


def _best_epoch(run: Candidate, learner: str) -> TrainedRun:
    epoch = read_run_info(run.folder / BEST_NAME).epoch
    mse, bpp = _validated(run.folder, epoch)
    return TrainedRun(
        level=run.level,
        lmbda=run.lmbda,
        learner=learner,
        epoch=epoch,
        loss=run.best_validation_loss,
        mse=mse,
        bpp=bpp,
        run=str(run.folder),
    )


def _validated(folder: Path, epoch: int) -> tuple[float | None, float | None]:
    names = [field.name for field in fields(EpochMetrics)]
    for row in read_rows(folder / METRICS_NAME, len(names)):
        found = dict(zip(names, row, strict=True))
        if found["epoch"] == str(epoch) and found["val_mse"]:
            return float(found["val_mse"]), float(found["val_bpp"])
    return None, None
