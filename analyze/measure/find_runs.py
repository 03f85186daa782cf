"""Find the trained runs that an analysis is about, and what is known of them without a split."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path

from analyze.facts.candidates import (
    Candidate,
    codec_code,
    kind_of,
    learner,
    learner_labels,
    newest_runs,
    plan_of,
)
from analyze.facts.contextual_runs import beside_each
from analyze.facts.results import AnalysisResult, Found, LevelRow
from analyze.measure.split import level_facts, missing_cache
from analyze.streams.unsent_levels import training_cache
from configs.errors import CacheError, ConfigError
from data.cache.cache_folder import CacheFolder
from train.runs.checkpoint import BEST_NAME, RunInfo
from train.runs.loaded_models import LoadedModels
from train.runs.metrics import METRICS_NAME, EpochMetrics, read_rows
from train.runs.run_folder import find_fused_runs, find_random_runs, find_runs
from train.runs.run_record import RANDOM


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRuns:
    """Runs of one level each, a contextual one beside each of its own; the others by their kind."""

    special: tuple[Candidate, ...]
    random: tuple[Path, ...]
    """Runs of `--level random`."""
    shared: tuple[Candidate, ...] = ()
    """The same, a candidate for each level that they serve."""
    fused: tuple[Path, ...] = ()
    """Runs of `--level fused`."""
    missing: tuple[str, ...] = ()
    """Why contextual runs are left out."""


def run_folders(checkpoints: Path, run_dirs: Sequence[Path]) -> list[Path]:
    """Return `run_dirs`, or all runs below `checkpoints`; ConfigError for a folder without one."""
    if not run_dirs:
        found = [run.folder for run in find_runs(checkpoints)]
        return found + find_random_runs(checkpoints) + find_fused_runs(checkpoints)
    for folder in run_dirs:
        if not (folder / BEST_NAME).is_file():
            raise ConfigError(
                f"{folder}: no run: it holds no {BEST_NAME}: "
                f"name folders such as checkpoints/fpn_..._level_0/run_... or ..._{RANDOM}_..."
            )
    return list(run_dirs)


def trained_runs(folders: Iterable[Path], cache: CacheFolder, models: LoadedModels) -> TrainedRuns:
    """Return what is known of each run.

    Raises ConfigError for a damaged one, CacheError for one whose features came from another
    detector than this cache's.
    """
    special, random, shared, fused = [], [], [], []
    for folder in folders:
        run = models.info(folder)
        _require_same_detector(run, folder, cache)
        if run.is_fused:
            fused.append(folder)
        elif len(run.levels) > 1:
            random.append(folder)
            shared += [
                replace(
                    _candidate(run, folder / f"level_{level}", level),
                    num_levels=len(run.levels), own_folder=folder,
                )
                for level in run.levels
            ]  # fmt: skip
        else:
            special.append(_candidate(run, folder, run.level))
    linked, missing = _beside_their_contexts(special, models)
    return TrainedRuns(
        special=linked, random=tuple(random), shared=tuple(shared), fused=tuple(fused),
        missing=missing,
    )  # fmt: skip


def _candidate(run: RunInfo, folder: Path, level: int) -> Candidate:
    return Candidate(
        folder=folder,
        level=level,
        lmbda=run.lmbda,
        best_validation_loss=run.best_validation_loss,
        model=learner(run.config),
        model_sha256=run.model_sha256,
        code=codec_code(run.config.model),
        plan=plan_of(run.config),
        seed=run.config.training.seed,
    )


def _beside_their_contexts(
    runs: Sequence[Candidate], models: LoadedModels
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """Return runs with what each sees, in the same order, and why some are left out.

    One that was trained beside several is there beside each of them that is, and beside each of
    the ways in which that one is there.
    """
    linked: dict[Path, list[Candidate]] = {}
    missing: list[str] = []
    for run in sorted(runs, key=attrgetter("level"), reverse=True):
        info = models.info(run.folder)
        if info.config.model.context is None:
            linked[run.folder] = [run]
            continue
        there = {
            ways[0].model_sha256: ways for ways in linked.values() if ways[0].level > run.level
        }
        known = [way for sha256 in info.context for way in there.get(sha256, ())]
        if known:
            linked[run.folder] = beside_each(run, known)
            continue
        missing.append(
            f"{run.folder} is left out: it sees the coarser level as decoded by "
            f"{info.context_in_words}, which is not among the runs: name that run, too, or the "
            "folder that holds it"
        )
    found = [way for run in runs for way in linked.get(run.folder, ())]
    return tuple(found), tuple(missing)


def newest_of_levels(
    runs: Sequence[Candidate], levels: Collection[int], *, looked_in: str, split: str, options: str,
    derivable: Collection[int] = (),
) -> Found[tuple[Candidate, ...]]:  # fmt: skip
    """Return the newest run of each kind, of the levels that a split's cache holds.

    What is missing: levels without a run in `looked_in`, and runs of levels that the cache lacks;
    `options` are what commands in messages need to reach the same data. Of the `derivable` levels
    no run is missing where others were trained from coarse to fine, which leaves these out.
    """
    trained = {run.level for run in runs}
    left_out = set(derivable) if any(run.context is not None for run in runs) else set()
    missing = [
        f"level {level} has no trained run in {looked_in}: run train-level --level {level}{options}"
        for level in sorted(levels)
        if level not in trained | left_out
    ] + [
        f"level {level} was trained, but this cache does not hold it: "
        f"run extract-features --split {split}{options} with that level"
        for level in sorted(trained - set(levels))
    ]
    taken = tuple(run for run in newest_runs(runs) if run.level in levels)
    return Found(taken, tuple(missing))


def left_out_lines(named: Collection[Candidate], taken: Collection[Candidate]) -> tuple[str, ...]:
    """Say which of the named runs a newer one of the same level, lambda and learner replaces."""
    newest = {kind_of(run): run.model_folder for run in taken}
    left_out = {
        run.model_folder: newest[kind_of(run)]
        for run in named
        if run.model_folder not in newest.values() and kind_of(run) in newest
    }
    return tuple(
        f"{folder} is left out: {newer} is of the same level, lambda, model, distortion, seed and "
        "context, and newer: analyse it by itself, with another --report"
        for folder, newer in left_out.items()
    )


def _require_same_detector(run: RunInfo, folder: Path, cache: CacheFolder) -> None:
    made_by = cache.manifest.detector["weights_sha256"]
    if run.detector_weights_sha256 != made_by:
        raise CacheError(
            f"{folder}: was trained on features of detector weights "
            f"{run.detector_weights_sha256[:12]}, the cache {cache} is of {made_by[:12]}: name the "
            "runs that belong to this cache, or extract it anew"
        )


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


def trained_only(
    folders: Iterable[Path], cache: CacheFolder, models: LoadedModels, *, split: str, options: str
) -> tuple[AnalysisResult, tuple[TrainedRun, ...]]:
    """Return the levels of the train cache beside the missing one, and the best epochs of all runs.

    Raises CacheError where there is no train cache either.
    """
    missing = missing_cache(cache, split, options)
    beside = training_cache(cache)
    try:
        manifest = beside.manifest
    except CacheError:
        raise missing from None
    runs = newest_runs(trained_runs(folders, beside, models).special)
    labels = learner_labels(runs)
    result = AnalysisResult(
        dataset=manifest.dataset,
        split=split,
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
            *(
                ()
                if runs
                else (f"no level has a trained run: run train-level --level all{options}",)
            ),
        ),
    )
    trained = (_best_epoch(run, labels[run.model], models.info(run.folder).epoch) for run in runs)
    return result, tuple(trained)


def _best_epoch(run: Candidate, learner: str, epoch: int) -> TrainedRun:
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
