"""A grid of runs, one after another or several at once; what is finished is not trained again."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from configs.errors import UserError
from configs.log_setup import setup_logging
from data.cache.cache_folder import CacheFolder
from data.system.stop_signals import StopSignals
from train.loop.job import Job
from train.loop.run import train_level
from train.machine.distributed import ALONE, World
from train.machine.interruption import TrainingInterruptedError
from train.runs.run_folder import ALL_DONE, same_run_before, shorter_run_before

log = logging.getLogger(__name__)

_POLL_S = 0.5
# Each process is a fork of a server that has imported everything and done nothing: torch takes
# seconds to import, and processes forked from one that has computed may hang.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["train.loop.study"])


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """How a run ended: `error` is the line for the user, None if it is finished."""

    job: Job
    folder: Path | None
    was_finished: bool = False
    error: str | None = None
    exit_code: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    """A process that trains a chain, and the runs of which it has not told the end yet."""

    process: BaseProcess
    left: list[Job]


def chains_of(jobs: Sequence[Job]) -> list[list[Job]]:
    """Cut a study into what has to be trained in order.

    With a warm start that is a level by itself, its lambdas in ascending order; every run alone
    otherwise.
    """
    chains: dict[tuple[int | str, int | None], list[Job]] = {}
    for place, job in enumerate(jobs):
        alone = None if job.config.training.warm_start else place
        chains.setdefault((job.level, alone), []).append(job)
    return [sorted(chain, key=lambda job: job.config.training.lmbda) for chain in chains.values()]


def run_study(
    jobs: Sequence[Job], *, go_on: bool, num_jobs: int, log_level: str, world: World
) -> Iterator[RunOutcome]:
    """Train all jobs, `num_jobs` at a time with the cores shared out; yield each as it ends.

    `go_on`: skip runs that are finished and resume those that are not; otherwise all begin anew. A
    run that fails does not keep the others from being trained; a signal ends the study. Raises
    ConfigError before any begins if a job's settings are not for its caches.
    """
    chains = chains_of([job.settled() for job in jobs])
    with StopSignals() as stop:
        if num_jobs > 1 and len(chains) > 1:
            yield from _run_at_once(chains, go_on, num_jobs, log_level, stop)
            return
        for chain in chains:
            for outcome in _run_chain(chain, go_on, world, stop):
                yield outcome
                if outcome.exit_code > 128:
                    return


def _run_chain(
    chain: Sequence[Job], go_on: bool, world: World, stop: StopSignals
) -> Iterator[RunOutcome]:
    before: RunOutcome | None = None
    for job in chain:
        if before is not None and job.config.training.warm_start:
            job = replace(job, warm_start=before.folder)
        outcome = _run_one(job, before, go_on, world, stop)
        yield outcome
        if outcome.exit_code > 128:
            return
        before = outcome


def _run_one(
    job: Job, before: RunOutcome | None, go_on: bool, world: World, stop: StopSignals
) -> RunOutcome:
    """Train a run unless it is finished, or the one `before` it, which it begins from, is not."""
    job = replace(
        job,
        train_cache=CacheFolder.of(job.train_cache).up_to_date(),
        val_cache=CacheFolder.of(job.val_cache).up_to_date(),
    )
    try:
        if go_on and job.resume is None:
            fingerprints = job.fingerprints()
            known = world.from_first(lambda: same_run_before(job.parent, job.config, fingerprints))
            if known is not None and known[1].finished is not None:
                return RunOutcome(job=job, folder=known[0], was_finished=True)
            if known is not None:
                job = replace(job, resume=known[0])
            else:
                shorter = world.from_first(
                    lambda: shorter_run_before(job.parent, job.config, fingerprints)
                )
                if shorter is not None and shorter[1].finished != ALL_DONE:
                    # Early stopping would end it there whatever the number of epochs.
                    return RunOutcome(job=job, folder=shorter[0], was_finished=True)
                job = replace(job, continues=None if shorter is None else shorter[0])
        if before is not None and before.folder is None:
            raise UserError(
                f"not trained, as it begins from the best model of lambda "
                f"{before.job.config.training.lmbda:g}, which has failed: mend that, the same "
                "command goes on"
            )
        return RunOutcome(job=job, folder=train_level(job, world=world, stop=stop))
    except TrainingInterruptedError as error:
        return RunOutcome(job=job, folder=None, error=str(error), exit_code=error.exit_code)
    except UserError as error:
        if world.size > 1 and not error.met_by_all:
            raise  # the others know nothing of it: they wait for this process, in this run
        return RunOutcome(job=job, folder=None, error=str(error), exit_code=1)


def _run_at_once(
    chains: list[list[Job]], go_on: bool, num_jobs: int, log_level: str, stop: StopSignals
) -> Iterator[RunOutcome]:
    """Train chains in processes of their own."""
    num_threads = max(1, torch.get_num_threads() // min(num_jobs, len(chains)))
    waiting = list(chains)
    running: dict[Connection, _Worker] = {}
    asked: int | None = None
    try:
        while waiting or running:
            while waiting and len(running) < num_jobs and stop.received is None:
                chain = waiting.pop(0)
                mine, its = _PROCESSES.Pipe(duplex=False)
                process: BaseProcess = _PROCESSES.Process(
                    target=_work, args=(chain, go_on, num_threads, log_level, its)
                )
                process.start()
                its.close()
                running[mine] = _Worker(process=process, left=list(chain))
            if stop.received is not None:
                if waiting:
                    yield _not_begun(waiting, stop.received)
                    waiting.clear()
                for worker in running.values():
                    worker.process.terminate()  # asks it to save
                asked, stop.received = stop.received, None
            for ready in wait(list(running), timeout=_POLL_S):
                assert isinstance(ready, Connection)
                yield from _received(ready, running, asked)
    finally:
        for worker in running.values():
            worker.process.kill()


def _not_begun(waiting: list[list[Job]], number: int) -> RunOutcome:
    return RunOutcome(
        job=waiting[0][0], folder=None, exit_code=128 + number,
        error=f"stopped by {signal.Signals(number).name} with {sum(map(len, waiting))} runs not "
        "begun: the same command goes on from there",
    )  # fmt: skip


def _received(
    ready: Connection, running: dict[Connection, _Worker], asked: int | None
) -> Iterator[RunOutcome]:
    """Yield what a process says of its next run, or what its end says; `asked` is the signal."""
    worker = running[ready]
    try:
        outcome: RunOutcome = ready.recv()
    except EOFError:
        del running[ready]
        worker.process.join()
        if worker.left:
            yield _died(worker, asked)
        return
    del worker.left[0]
    if outcome.exit_code > 128:
        worker.left.clear()
    if asked is not None and outcome.error is not None and outcome.exit_code > 128:
        error = outcome.error.replace("SIGTERM", signal.Signals(asked).name)
        outcome = replace(outcome, error=error, exit_code=128 + asked)
    yield outcome


def _died(worker: _Worker, asked: int | None) -> RunOutcome:
    """Return the outcome of a run whose process ended without a word of it."""
    code = worker.process.exitcode or 0
    why = f"its process ended with code {code}"
    if asked is not None:
        why, code = f"stopped by {signal.Signals(asked).name} before it had begun", -asked
    elif code == -signal.SIGKILL:
        why = "its process was killed, perhaps for lack of memory (fewer --jobs need less)"
    return RunOutcome(
        job=worker.left[0], folder=None, exit_code=128 - code if code < 0 else 1,
        error=f"{why}: the same command goes on from there",
    )  # fmt: skip


def _work(chain: list[Job], go_on: bool, num_threads: int, log_level: str, out: Connection) -> None:
    # A terminal sends Ctrl-C to every process; the parent passes it on, once, as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup_logging(log_level)
    torch.set_num_threads(num_threads)
    # The signal that stops the study may come to all its processes, and again from the parent.
    with StopSignals(insistent=True) as stop:
        threading.Thread(target=_stop_without_parent, daemon=True).start()
        for outcome in _run_chain(chain, go_on, ALONE, stop):
            with suppress(BrokenPipeError):  # the study has died
                out.send(outcome)
    out.close()


def _stop_without_parent() -> None:
    """Stop this process as a signal would if the study dies: the same command has to go on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
