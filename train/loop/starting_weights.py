"""What a new run begins from: the best model of another one, or nothing."""

from __future__ import annotations

from pathlib import Path

from configs.errors import ConfigError
from train.loop.job import Caches, Job
from train.runs.checkpoint import BEST_NAME, read_run_info
from train.runs.run_folder import RunRecord


def run_to_begin_from(job: Job, record: RunRecord | None = None) -> Path | None:
    """Return the folder of that run: the study's choice before `training.init_from`.

    A run that is gone on with, but stopped before its first checkpoint, begins as its `record`
    says that it did.
    """
    if job.warm_start is not None:
        return job.warm_start
    if record is not None and record.warm_start is not None:
        return Path(record.warm_start["run"])
    configured = job.config.training.init_from
    return None if configured is None else Path(configured)


def refuse_other_kind(job: Job, caches: Caches) -> None:
    """Raise ConfigError unless that run has a model for the job's levels, of its architecture.

    Its features have to be of the same detector too: its standardisation goes on with its weights.
    """
    start = run_to_begin_from(job)
    if start is None:
        return
    info = read_run_info(start / BEST_NAME)
    detector = caches.train[0].manifest.detector["weights_sha256"]
    pairs = (
        ("of level", list(info.levels), list(caches.levels)),
        ("with model", info.config.model.model_dump(), job.config.model.model_dump()),
        ("of detector weights", info.detector_weights_sha256[:12], detector[:12]),
    )
    for what, its, wanted in pairs:
        if its != wanted:
            raise ConfigError(
                f"training.init_from {start}: a run {what} {_told(its, wanted)}, this one is "
                f"{what} {_told(wanted, its)}: name a run of the same kind"
            )


def _told(value: object, other: object) -> str:
    """Return the value in words; of a section only the keys in which the other differs."""
    if isinstance(value, dict) and isinstance(other, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if other.get(k) != v)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
