"""Runs of the next coarser level that a codec is trained beside: which fit, and what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.errors import ConfigError
from configs.given_files import is_file
from configs.schema.training import ContextConfig, ModelConfig
from data.cache.manifest import Manifest
from data.cache.manifest_parts import LevelInfo
from train.runs.checkpoint import BEST_NAME
from train.runs.loaded_models import LoadedModels
from train.runs.run_record import RunKeys, RunRecord


def coarser_level(manifest: Manifest, level: int) -> LevelInfo | None:
    """Return the next coarser level of a cache that is coded itself, not derived from another."""
    coded = (each for each in manifest.levels if each.derived_from is None)
    return next((each for each in coded if each.index > level), None)


def context_size(
    level: LevelInfo, coarser: LevelInfo, model: ModelConfig, name: str
) -> ContextConfig:
    """Return what a codec of `level` sees of a coarser level that a model of this kind decodes.

    Raises ConfigError, which names the run, if a position of the coarser level is not of a whole
    number of the level's.
    """
    stride, rest = divmod(coarser.stride_px, level.stride_px)
    if rest:
        raise ConfigError(
            f"{name}: level {coarser.index} has a stride of {coarser.stride_px} px, level "
            f"{level.index} one of {level.stride_px}, which does not divide it: train level "
            f"{level.index} without --context"
        )
    return ContextConfig(
        num_channels=coarser.num_channels,
        stride=stride,
        trail_channels=model.trail_channels,
        trail_stride=stride * 2**model.stages,
    )


def measured_context(
    manifest: Manifest, level: int, runs: Sequence[str], models: LoadedModels
) -> ContextConfig:
    """Return what the codec of a level sees of the next coarser one, as these runs decode it.

    Raises ConfigError if a run has no best model, is of another level or of another detector's
    features, or if two are of one model, or of models that cannot take each other's place.
    """
    coarser = coarser_level(manifest, level)
    if coarser is None:
        raise ConfigError(
            f"training.context: level {level} is the coarsest that is coded: train it without "
            "--context"
        )
    detector = manifest.detector["weights_sha256"]
    sizes = []
    for run in runs:
        info = models.info(run)
        if info.levels != (coarser.index,):
            raise ConfigError(
                f"training.context {run}: a run of level {', '.join(map(str, info.levels))}: "
                f"beside level {level} goes one of level {coarser.index} alone, the next coarser "
                "one that is coded"
            )
        if info.detector_weights_sha256 != detector:
            raise ConfigError(
                f"training.context {run}: was trained on features of detector weights "
                f"{info.detector_weights_sha256[:12]}, this cache is of {detector[:12]}: name a "
                "run that belongs to it"
            )
        sizes.append(context_size(manifest.level(level), coarser, info.config.model, run))
    known: dict[str, str] = {}
    for run in runs:
        sha256 = models.info(run).model_sha256
        if sha256 in known:
            raise ConfigError(
                f"training.context: {known[sha256]} and {run} are one model: name each run once"
            )
        known[sha256] = run
    for run, size in zip(runs, sizes, strict=True):
        for key, value in sizes[0].model_dump().items():
            if (other := getattr(size, key)) != value:
                raise ConfigError(
                    f"training.context: {runs[0]} and {run} cannot take turns ({key} {value} and "
                    f"{other}): name runs whose models are of one size"
                )
    return sizes[0]


def context_models(runs: Sequence[str], models: LoadedModels) -> list[dict[RunKeys, str]]:
    """Return folder and model hash of each run, as run.json has them."""
    return [
        {"run": str(Path(run).resolve()), "model_sha256": models.info(run).model_sha256}
        for run in runs
    ]


def runs_beside(run: Path, models: LoadedModels) -> list[str]:
    """Return the folders of the runs that a run was trained beside, as they lie now.

    They are looked for where its record says, and then beside it, where they lie if all were moved
    together. Raises ConfigError if one is in neither place, or has another best model since.
    """
    context = RunRecord.load(run).context if models.info(run).context else []
    found = []
    for its, sha256 in zip(context, models.info(run).context, strict=True):
        then = Path(its["run"])
        moved = run.resolve().parents[1] / then.parent.name / then.name
        for folder in (then, moved):
            if is_file(folder / BEST_NAME) and models.info(folder).model_sha256 == sha256:
                found.append(str(folder))
                break
        else:
            raise ConfigError(
                f"{run}: its codec sees what the model {sha256[:12]} decodes, which is neither in "
                f"{then} nor in {moved}: bring that run back, or train this one again"
            )
    return found
