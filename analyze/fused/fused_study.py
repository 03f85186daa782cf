"""Runs that code all levels in one, over a split: real bits, errors by level, detection.

They are whole pyramids, one of the ways to code them. Nothing is allocated among their levels,
which are sent together or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analyze.facts.approaches import FUSED
from analyze.facts.candidates import Candidate, learner
from analyze.facts.kept_results import Kept
from analyze.facts.results import Combination, Found, Measurement
from analyze.facts.sent_parts import DERIVED, Combined, Part
from analyze.fused.fused_rate_distortion import fused_codec, is_measured, measured_levels
from analyze.measure.approach_cost import ApproachCost, cost_of_fused
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.detection_study import DetectionStudy
from analyze.measure.level_results import combination, pyramid_mse
from analyze.measure.split import Split
from analyze.streams.unsent_levels import Overhead
from train.runs.checkpoint import RunInfo
from train.runs.loaded_models import LoadedModels


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedFinding:
    """What one run reached."""

    run: str
    lmbda: float
    seed: int
    title: str
    """`fused`, with what it minimised beside the rate unless that is the MSE."""
    levels: dict[int, Measurement]
    """Each level that it codes. The bits of the payloads, and all estimated ones, are the finest's;
    times are of all levels together."""
    combination: Combination
    """All levels of the split: what can be derived is not sent."""
    cost: ApproachCost


def study_fused(
    folders: Sequence[Path],
    split: Split,
    decoded: DecodedLevels,
    overhead: Overhead,
    detection: DetectionStudy | None,
    models: LoadedModels,
    kept: Kept,
) -> Found[tuple[FusedFinding, ...]]:
    """Return what each run reaches, of runs of one kind the newest; without detection no mAP.

    A run of other levels than those of the split that have to be sent is a line of what is missing.
    """
    derived = split.manifest.derived_levels
    found, missing = [], []
    chosen = _newest(folders, models)
    for folder in chosen:
        info = models.info(folder)
        if not _codes_what_is_sent(info, split):
            missing.append(
                f"{folder} is left out: it codes the levels {list(info.levels)} in one, of this "
                f"cache {sorted(split.readers.keys() - derived)} are to be sent: train it on this "
                "cache with --level fused"
            )
            continue
        runs = _candidates(folder, info)
        levels = measured_levels(runs, info, split, decoded, models, kept)
        seeds = {
            models.info(other).config.training.seed
            for other in chosen
            if _kind(models.info(other)) == _kind(info)
        }
        combined = _combined(info, runs, levels, derived, with_seed=len(seeds) > 1)
        mse_of = {str(run.folder): levels[level].mse for level, run in runs.items()}
        codec, finest = fused_codec(folder, models), split.readers[info.levels[0]]
        found.append(
            FusedFinding(
                run=str(folder),
                lmbda=info.lmbda,
                seed=info.config.training.seed,
                title=_title(info),
                levels=levels,
                combination=dataclasses.replace(
                    _with_detection(combined, overhead, detection, str(folder)),
                    mse=pyramid_mse(split, combined.parts, mse_of),
                ),
                cost=cost_of_fused(folder, codec, finest),
            )
        )
    return Found(tuple(found), tuple(missing))


def fused_due(
    folders: Sequence[Path], split: Split, models: LoadedModels, kept: Kept
) -> list[Path]:
    """Return the runs that `study_fused` would have to measure: of no earlier analysis."""
    return [
        folder
        for folder in _newest(folders, models)
        if _codes_what_is_sent(models.info(folder), split)
        and not is_measured(models.info(folder), split, models, kept)
    ]


def _codes_what_is_sent(info: RunInfo, split: Split) -> bool:
    return set(info.levels) == split.readers.keys() - split.manifest.derived_levels


def _newest(folders: Iterable[Path], models: LoadedModels) -> list[Path]:
    """Return one run of each kind and seed, by lambda, as `newest_runs` does for levels."""
    newest: dict[tuple[tuple[str, float], int], Path] = {}
    for folder in sorted(folders, key=lambda folder: folder.name):
        info = models.info(folder)
        newest[_kind(info), info.config.training.seed] = folder
    return [newest[key] for key in sorted(newest)]


def _kind(info: RunInfo) -> tuple[str, float]:
    return learner(info.config), info.lmbda


def _title(info: RunInfo) -> str:
    learnt_by = info.config.training.learnt_by
    return FUSED if learnt_by == "mse" else f"{FUSED}, {learnt_by}"


def _candidates(folder: Path, info: RunInfo) -> dict[int, Candidate]:
    """Return level -> the run as it codes that level, for what asks for single levels."""
    return {
        level: Candidate(
            folder=folder / f"level_{level}",
            own_folder=folder,
            level=level,
            lmbda=info.lmbda,
            best_validation_loss=info.best_validation_loss,
            model=learner(info.config),
            model_sha256=info.model_sha256,
            seed=info.config.training.seed,
            is_fused=True,
        )
        for level in info.levels
    }


def _combined(
    info: RunInfo,
    runs: Mapping[int, Candidate],
    levels: Mapping[int, Measurement],
    derived: Iterable[int],
    *,
    with_seed: bool,
) -> Combined:
    parts = {
        level: Part(kind="run", run=run, bits_per_pixel=levels[level].bits_per_pixel)
        for level, run in runs.items()
    }
    not_sent = sorted(derived)
    name = f"all levels {_title(info)}, lambda {info.lmbda:.3g}"
    seed = info.config.training.seed if with_seed else None
    if seed is not None:
        name += f", seed {seed}"
    if not_sent:
        name += f", level {' and '.join(map(str, not_sent))} derived"
    return Combined(
        name=name,
        parts={**parts, **dict.fromkeys(not_sent, DERIVED)},
        lmbda=info.lmbda,
        learner=_title(info),
        is_planned=True,
        seed=seed,
    )


def _with_detection(
    combined: Combined, overhead: Overhead, detection: DetectionStudy | None, folder: str
) -> Combination:
    title = combined.learner or FUSED
    found = combination(combined, {title: title}, overhead, detection)
    # A run's own folder, in place of the names of its levels.
    parts = {
        level: folder if combined.parts[level].run is not None else how
        for level, how in found.parts.items()
    }
    return dataclasses.replace(found, parts=parts)
