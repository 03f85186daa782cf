"""What one process trains: a run, runs in order, or runs in lock-step; and how each ended."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from configs.errors import UserError
from data.cache.cache_folder import CacheFolder
from data.system.stop_signals import StopSignals
from train.loop.job import Job, stream_settings
from train.loop.run import train_level
from train.machine.distributed import ALONE, World
from train.machine.interruption import TrainingInterruptedError
from train.runs.run_folder import same_run_before, shorter_run_before
from train.runs.run_record import ALL_DONE, RunRecord
from train.study.lock_step import train_together


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """How a run ended: `error` is the line for the user, None if it is finished."""

    job: Job
    folder: Path | None
    was_finished: bool = False
    error: str | None = None
    exit_code: int = 0


def chains_of(jobs: Sequence[Job], lock_step: bool | None = None) -> list[list[Job]]:
    """Cut a study into what one process trains: in order, or in lock-step.

    With a warm start that is a level and a seed, its lambdas in ascending order; from coarse to
    fine the levels of one `Job.chain`, from the coarsest on. In `lock_step`, which None chooses on
    a GPU, it is what takes the same batches. Otherwise it is every run alone.
    """
    chains: dict[Hashable, list[Job]] = {}
    for place, job in enumerate(jobs):
        on_gpu = torch.device(job.device).type == "cuda"
        key: Hashable = place
        settings = job.config.training
        if job.chain is not None:
            key = ("from coarse to fine", job.chain)
        elif settings.warm_start:
            key = ("in order", job.level, settings.seed)
        elif on_gpu if lock_step is None else lock_step:
            key = stream_settings(job)
        chains.setdefault(key, []).append(job)
    return [sorted(chain, key=_place) for chain in chains.values()]


def _place(job: Job) -> float:
    return job.config.training.lmbda if job.chain is None else -float(job.level)


def is_in_order(chain: Sequence[Job]) -> bool:
    """Whether each run of a chain needs the one before it."""
    return any(job.config.training.warm_start or job.chain is not None for job in chain)


def run_chain(
    chain: Sequence[Job], go_on: bool, world: World, stop: StopSignals
) -> Iterator[RunOutcome]:
    """Train what `chains_of` has put together; yield each run's outcome as it ends."""
    if len(chain) > 1 and not is_in_order(chain):
        yield from _run_in_lock_step(chain, go_on, stop)
        return
    before: RunOutcome | None = None
    for job in chain:
        outcome = _run_one(job, before, go_on, world, stop)
        # As the study knows it: what it was given of the run before it is this process's affair.
        outcome = replace(outcome, job=job)
        yield outcome
        if outcome.exit_code > 128:
            return
        before = outcome


def _run_in_lock_step(jobs: Sequence[Job], go_on: bool, stop: StopSignals) -> Iterator[RunOutcome]:
    unfinished = []
    for job in map(_with_caches_of_now, jobs):
        try:
            found = _found(job, go_on, ALONE)
        except UserError as error:
            found = _failed(job, error)
        if isinstance(found, RunOutcome):
            yield found
        else:
            unfinished.append(found)
    for job, end in train_together(unfinished, stop):
        yield _failed(job, end) if isinstance(end, UserError) else RunOutcome(job=job, folder=end)


def _run_one(
    job: Job, before: RunOutcome | None, go_on: bool, world: World, stop: StopSignals
) -> RunOutcome:
    """Train a run unless it is finished, or the one `before` it, which it needs, is not."""
    job = _with_caches_of_now(job)
    try:
        if before is not None:
            job = world.from_first(partial(_after, job, before))
        found = _found(job, go_on, world)
        if isinstance(found, RunOutcome):
            return found
        if before is not None and before.folder is None:
            raise UserError(
                f"not trained, as it begins from the best model of lambda "
                f"{before.job.config.training.lmbda:g}, which has failed: mend that, the same "
                "command goes on"
            )
        return RunOutcome(job=found, folder=train_level(found, world=world, stop=stop))
    except UserError as error:
        asked = isinstance(error, TrainingInterruptedError)
        if world.size > 1 and not asked and not error.met_by_all:
            raise  # the others know nothing of it: they wait for this process, in this run
        return _failed(job, error)


def _after(job: Job, before: RunOutcome) -> Job:
    """Return the job with what it takes of the run before it, which is finished or has failed."""
    if job.chain is None:
        return replace(job, warm_start=before.folder)
    if before.folder is None:
        raise UserError(
            f"not trained, as its codec sees level {before.job.level} as the run of that level "
            "decodes it, which has failed: mend that, the same command goes on"
        )
    return job.beside(before.folder)


def _with_caches_of_now(job: Job) -> Job:
    return replace(
        job,
        train_cache=CacheFolder.of(job.train_cache).up_to_date(),
        val_cache=CacheFolder.of(job.val_cache).up_to_date(),
    )


def finished_before(job: Job) -> Path | None:
    """Return the folder of the finished run that a study would take for this job, if there is one.

    Raises as `Job.fingerprints` does.
    """
    found = _found(job, True, ALONE)
    return found.folder if isinstance(found, RunOutcome) else None


def epochs_left(chain: Sequence[Job], go_on: bool) -> list[int]:
    """Return how many epochs each run of a chain has still to train, at most.

    Raises as `Job.fingerprints` does.
    """
    left: list[int] = []
    before: Path | None = None
    in_order = is_in_order(chain)
    for place, job in enumerate(chain):
        left.append(job.config.training.epochs)
        if in_order and place and before is None:
            continue  # it begins from a model that there is not yet
        after = job if before is None or job.chain is None else job.beside(before)
        found = _found(after, go_on, ALONE)
        before = found.folder if isinstance(found, RunOutcome) else None
        if isinstance(found, RunOutcome):
            left[-1] = 0
        elif (begun := found.resume or found.continues) is not None:
            left[-1] -= RunRecord.load(begun).epochs
    return left


def _found(job: Job, go_on: bool, world: World) -> Job | RunOutcome:
    """Return the job with what there is to go on with, or the outcome of a run that is finished."""
    if not go_on or job.resume is not None:
        return job
    fingerprints = job.fingerprints()
    known = world.from_first(lambda: same_run_before(job.parent, job.config, fingerprints))
    if known is not None and known[1].finished is not None:
        return RunOutcome(job=job, folder=known[0], was_finished=True)
    if known is not None:
        return replace(job, resume=known[0])
    shorter = world.from_first(lambda: shorter_run_before(job.parent, job.config, fingerprints))
    if shorter is not None and shorter[1].finished != ALL_DONE:
        # Early stopping would end it there whatever the number of epochs.
        return RunOutcome(job=job, folder=shorter[0], was_finished=True)
    return replace(job, continues=None if shorter is None else shorter[0])


def _failed(job: Job, error: UserError) -> RunOutcome:
    return RunOutcome(job=job, folder=None, error=str(error), exit_code=error.exit_code)
