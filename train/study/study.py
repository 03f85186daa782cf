"""A grid of runs, one after another or several at once; what is finished is not trained again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

import torch

from configs.log_setup import setup_logging
from data.system.stop_signals import StopSignals
from train.loop.job import Job
from train.machine.distributed import ALONE, World
from train.study.chain import RunOutcome, chains_of, is_in_order, run_chain

PRELOADED = ["train.study.study"]
"""What the server imports that processes on a CPU are forks of."""

_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Worker:
    """A process that trains a chain, and the runs of which it has not told the end yet."""

    process: BaseProcess
    left: list[Job]


def processes_for(device: str) -> BaseContext:
    """Return how processes that compute on a device begin.

    On a CPU each is a fork of a server that has imported everything and done nothing: torch takes
    seconds to import, and processes forked from one that has computed may hang. Not so on a GPU:
    CompressAI imports torch_geometric, which asks torch how it was built, which asks the driver for
    its devices; and in a fork of a process that has used the driver nothing works.
    """
    if torch.device(device).type != "cpu":
        return multiprocessing.get_context("spawn")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    return processes


def run_study(
    jobs: Sequence[Job], *, go_on: bool, num_jobs: int, log_level: str, world: World,
    lock_step: bool | None = None,
) -> Iterator[RunOutcome]:  # fmt: skip
    """Train all jobs, `num_jobs` at a time with the cores shared out; yield each as it ends.

    In `lock_step`, the default on a GPU (None), runs that take the same batches count as one: they
    are trained in one process, which reads each batch once. Ranks train one run after another.

    `go_on`: skip runs that are finished and resume those that are not; otherwise all begin anew. A
    run that fails does not keep the others from being trained; a signal ends the study. Raises
    ConfigError before any begins if a job's settings are not for its caches.
    """
    chains = chains_of([job.settled() for job in jobs], lock_step if world.size == 1 else False)
    with StopSignals() as stop:
        if num_jobs > 1 and len(chains) > 1:
            yield from _run_at_once(chains, go_on, num_jobs, log_level, stop)
            return
        for chain in chains:
            interrupted = False
            for outcome in run_chain(chain, go_on, world, stop):
                yield outcome
                interrupted = interrupted or outcome.exit_code > 128
            if interrupted:
                return


def _run_at_once(
    chains: list[list[Job]], go_on: bool, num_jobs: int, log_level: str, stop: StopSignals
) -> Iterator[RunOutcome]:
    """Train chains in processes of their own."""
    num_threads = max(1, torch.get_num_threads() // min(num_jobs, len(chains)))
    waiting = list(chains)
    running: dict[Connection, _Worker] = {}
    asked: int | None = None
    processes = processes_for(chains[0][0].device)
    try:
        while waiting or running:
            while waiting and len(running) < num_jobs and stop.received is None:
                chain = waiting.pop(0)
                mine, its = processes.Pipe(duplex=False)
                process: BaseProcess = processes.Process(  # type: ignore[attr-defined]
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
        # What would have begun after it in a chain has not begun; in lock-step all die.
        for job in worker.left[:1] if is_in_order(worker.left) else worker.left:
            yield _died(job, worker.process, asked)
        return
    told = outcome.job
    worker.left[:] = [
        job for job in worker.left if (job.level, job.config) != (told.level, told.config)
    ]
    if outcome.exit_code > 128 and is_in_order(worker.left):
        worker.left.clear()
    if asked is not None and outcome.error is not None and outcome.exit_code > 128:
        error = outcome.error.replace("SIGTERM", signal.Signals(asked).name)
        outcome = replace(outcome, error=error, exit_code=128 + asked)
    yield outcome


def _died(job: Job, process: BaseProcess, asked: int | None) -> RunOutcome:
    """Return the outcome of a run whose process ended without a word of it."""
    code = process.exitcode or 0
    why = f"its process ended with code {code}"
    if asked is not None:
        why, code = f"stopped by {signal.Signals(asked).name} before it had begun", -asked
    elif code == -signal.SIGKILL:
        why = "its process was killed, perhaps for lack of memory (fewer --jobs need less)"
    return RunOutcome(
        job=job, folder=None, exit_code=128 - code if code < 0 else 1,
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
        for outcome in run_chain(chain, go_on, ALONE, stop):
            with suppress(BrokenPipeError):  # the study has died
                out.send(outcome)
    out.close()


def _stop_without_parent() -> None:
    """Stop this process as a signal would if the study dies: the same command has to go on."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
