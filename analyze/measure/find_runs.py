"""Find the trained runs that an analysis is about."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from analyze.facts.candidates import Candidate, learner
from configs.errors import CacheError, ConfigError
from data.cache.manifest import Manifest
from train.runs.checkpoint import BEST_NAME, RunInfo, read_run_info
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
