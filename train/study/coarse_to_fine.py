"""A study from coarse to fine: which runs it has, and what is decoded in it takes on the disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from configs.errors import ConfigError
from configs.schema.config import Config
from configs.schema.training import ContextConfig
from data.cache.cache_folder import CacheFolder
from train.context.context_runs import context_size, runs_beside
from train.context.decoded_plan import (
    bytes_there,
    decoded_bytes,
    decoded_folder,
    in_words,
)
from train.loop.job import Job
from train.runs.loaded_models import LoadedModels
from train.study.chain import chains_of, finished_before

log = logging.getLogger(__name__)


def from_coarse_to_fine(jobs: Sequence[Job], level: int | str | None) -> list[Job]:
    """Return the jobs of all levels as those of chains, without levels derived from others.

    Raises ConfigError if they are not of `--level all`, or begin from other runs.
    """
    if level != "all":
        raise ConfigError("--coarse-to-fine: trains all levels: use it with --level all")
    if (setting := next(_clashing(jobs[0].config), None)) is not None:
        raise ConfigError(
            f"--coarse-to-fine: each run has its own place in a chain of levels: leave out "
            f"{setting}, or train level by level with --context"
        )
    derived = {
        info.index: info.derived_from
        for info in CacheFolder.of(jobs[0].train_cache).manifest.levels
        if info.derived_from is not None
    }
    for index, source in derived.items():
        log.info("level %d: not trained, as level %d subsampled is exactly it", index, source)
    # By what the levels have in common: a configuration may give single ones other lambdas.
    return [
        replace(job, chain=(job.config.training.lmbda, job.config.training.seed))
        for job in jobs
        if job.level not in derived
    ]


def _clashing(config: Config) -> Iterator[str]:
    """Yield the settings, common ones and single levels', that say what a run begins from."""
    options = {
        "context": "--context (training.context)",
        "warm_start": "--warm-start (training.warm_start)",
        "init_from": "--init-from (training.init_from)",
    }
    yield from (name for key, name in options.items() if getattr(config.training, key))
    for level, own in sorted(config.levels.items()):
        given = own.given().get("training", {})
        yield from (f"levels.{level}.training.{key}" for key in options if given.get(key))


def lines_of_decoded(jobs: Sequence[Job], *, go_on: bool = True) -> list[str]:
    """Return what storing the decoded coarser levels of these runs takes, and what is free.

    Nothing if none are stored. `go_on`: runs of a chain that are finished are not trained again,
    and what they have decoded is there.
    """
    if jobs[0].config.training.context_on_the_fly:
        return []
    several_seeds = len({job.config.training.seed for job in jobs}) > 1
    needed: dict[str, int] = {}
    for chain in chains_of([job.settled() for job in jobs], lock_step=False):
        if chain[0].chain is not None:
            needed.update(_decoded_in(chain, go_on, several_seeds))
            continue
        for job in chain:
            needed.update(_decoded_beside(job))
    if not needed:
        return []
    free = shutil.disk_usage(CacheFolder.of(jobs[0].train_cache).path).free
    return [
        *(f"decoded, {line}: {in_words(num_bytes)}" for line, num_bytes in needed.items()),
        f"decoded, all: {in_words(sum(needed.values()))}, {in_words(free)} are free",
    ]


def _decoded_beside(job: Job) -> Iterator[tuple[str, int]]:
    """Yield what a run reads beside its level, and how many bytes of it are still to be written."""
    caches, models = _caches_of(job), LoadedModels(trust_code=job.trusted)
    for run in job.config.training.context:
        yield from _decoded_by(run, caches, models)


def _decoded_in(
    chain: Sequence[Job], go_on: bool, several_seeds: bool
) -> Iterator[tuple[str, int]]:
    """Yield what each run of a chain but the finest decodes, as far as it is still to be written.

    The chain begins with the coarsest level.
    """
    caches, models = _caches_of(chain[0]), LoadedModels(trust_code=chain[0].trusted)
    manifest = caches[0].manifest
    context: ContextConfig | None = None
    known = go_on  # whether the runs so far are finished
    before: Path | None = None
    for job, finer in pairwise(chain):
        level, training = int(job.level), job.config.training
        model = job.config.model.model_copy(update={"context": context})
        if known:
            before = finished_before(job if before is None else job.beside(before))
            known = before is not None
        name = f"level {level}, lambda {training.lmbda:g}"
        name += f", seed {training.seed}" if several_seeds else ""
        for cache in caches:
            size = decoded_bytes(cache.manifest, level, model)
            if before is not None:
                size -= bytes_there(decoded_folder(cache, models.info(before).model_sha256))
            yield f"{name}, {cache.path.name}", max(0, size)
        context = context_size(
            manifest.level(int(finer.level)), manifest.level(level), model, "--coarse-to-fine"
        )


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


def _caches_of(job: Job) -> list[CacheFolder]:
    return [CacheFolder.of(cache) for cache in (job.train_cache, job.val_cache)]
