"""A study from coarse to fine: which runs it has, and what is decoded in it takes on the disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from configs.errors import ConfigError
from configs.schema.training import ModelConfig
from data.cache.cache_folder import CacheFolder
from train.context.context_runs import coarser_level, context_size, runs_beside
from train.context.decoded_plan import (
    bytes_there,
    decoded_bytes,
    decoded_folder,
    in_words,
)
from train.loop.job import Job
from train.runs.loaded_models import LoadedModels

log = logging.getLogger(__name__)


def from_coarse_to_fine(jobs: Sequence[Job], level: int | str | None) -> list[Job]:
    """Return the jobs of all levels as those of chains, without levels derived from others.

    Raises ConfigError if they are not of `--level all`, or begin from other runs.
    """
    if level != "all":
        raise ConfigError("--coarse-to-fine: trains all levels: use it with --level all")
    training = jobs[0].config.training
    clashing = {
        "--context": training.context,
        "--warm-start": training.warm_start,
        "--init-from": training.init_from,
    }
    for option, given in clashing.items():
        if given:
            raise ConfigError(
                f"--coarse-to-fine: each run has its own place in a chain of levels: leave out "
                f"{option}, or train level by level with --context"
            )
    derived = {
        info.index: info.derived_from
        for info in CacheFolder.of(jobs[0].train_cache).manifest.levels
        if info.derived_from is not None
    }
    for index, source in derived.items():
        log.info("level %d: not trained, as level %d subsampled is exactly it", index, source)
    return [replace(job, coarse_to_fine=True) for job in jobs if job.level not in derived]


def lines_of_dry_run(jobs: Sequence[Job]) -> list[str]:
    """Return what storing the decoded coarser levels of these runs takes, and what is free."""
    if jobs[0].config.training.context_on_the_fly:
        raise ConfigError("--dry-run: nothing is stored with --context-on-the-fly: leave one out")
    needed: dict[str, int] = {}
    for job in jobs:
        for line, num_bytes in _decoded_for(job):
            needed[line] = num_bytes
    if not needed:
        raise ConfigError(
            "--dry-run: shows what decoded coarser levels take: use it with --context or with "
            "--coarse-to-fine"
        )
    free = shutil.disk_usage(CacheFolder.of(jobs[0].train_cache).path).free
    return [
        *(f"{line}: {in_words(num_bytes)}" for line, num_bytes in needed.items()),
        f"all: {in_words(sum(needed.values()))}, {in_words(free)} are free",
    ]


def _decoded_for(job: Job) -> Iterator[tuple[str, int]]:
    """Yield what a run reads beside its level, and how many bytes of it are still to be written."""
    caches = [CacheFolder.of(cache) for cache in (job.train_cache, job.val_cache)]
    manifest = caches[0].manifest
    if job.coarse_to_fine:
        coarser = coarser_level(manifest, int(job.level))
        if coarser is not None:
            model = _model_of(job, coarser.index)
            name = f"level {coarser.index}, lambda {job.config.training.lmbda:g}"
            for cache in caches:
                size = decoded_bytes(cache.manifest, coarser.index, model)
                yield f"{name}, {cache.path.name}", size
        return
    models = LoadedModels()
    for run in job.settled().config.training.context:
        yield from _decoded_by(run, caches, models)


def _decoded_by(
    run: str, caches: Sequence[CacheFolder], models: LoadedModels
) -> Iterator[tuple[str, int]]:
    info = models.info(run)
    for cache in caches:
        size = decoded_bytes(cache.manifest, info.level, info.config.model)
        there = bytes_there(decoded_folder(cache, info.model_sha256))
        yield f"{run}, {cache.path.name}", max(0, size - there)
    for coarser in runs_beside(Path(run), models):
        yield from _decoded_by(coarser, caches, models)


def _model_of(job: Job, level: int) -> ModelConfig:
    """Return the model of a level in the job's chain, with what it will see of coarser ones."""
    manifest = CacheFolder.of(job.train_cache).manifest
    model = replace(job, level=level).settled().config.model
    coarser = coarser_level(manifest, level)
    if coarser is None:
        return model
    size = context_size(
        manifest.level(level), coarser, _model_of(job, coarser.index), "--coarse-to-fine"
    )
    return model.model_copy(update={"context": size})
