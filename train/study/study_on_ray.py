"""A study on a Ray cluster: each chain is a task, and goes on from its checkpoints if it dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace

from configs.errors import ConfigError
from data.system.ray_cluster import connected
from data.system.ray_tasks import TaskEnd, TaskShare, run_tasks, share_of
from data.system.stop_signals import StopSignals
from train.loop.job import Job
from train.machine.distributed import ALONE, World
from train.study.chain import RunOutcome, chains_of, is_in_order, run_chain
from train.study.chain_on_node import StudyCopies, sent


def run_study_on_ray(
    jobs: Sequence[Job], *, address: str, device: str, num_cpus: float | None,
    num_gpus: float | None, log_level: str, at_urls: StudyCopies | None = None,
) -> Iterator[RunOutcome]:  # fmt: skip
    """Train all jobs as `run_study` does, on the cluster at an address; yield each as it ends.

    `device` is auto, cpu or cuda, of all jobs; the numbers are what each task takes, see
    `share_of`. Runs that are finished are skipped, others go on. What lies `at_urls` each task
    fetches and sends; all else is in folders that all nodes see. Raises as `connected`, `share_of`
    and `run_study`.
    """
    jobs = [job.settled() for job in jobs]
    if at_urls is not None and not at_urls.are_of(jobs):
        at_urls = None
    with connected(address) as cluster:
        share = share_of(cluster, device, num_cpus, num_gpus)
        on_device = "cuda" if share.num_gpus else "cpu"
        chains = chains_of([replace(job, device=on_device) for job in jobs])
        with StopSignals() as stop:
            yield from _outcomes(chains, at_urls, share, log_level, stop)


def _outcomes(
    chains: Sequence[list[Job]], at_urls: StudyCopies | None, share: TaskShare, log_level: str,
    stop: StopSignals,
) -> Iterator[RunOutcome]:  # fmt: skip
    left = [list(chain) for chain in chains]
    names = [_name(chain) for chain in chains]
    arguments = [(chain, at_urls) for chain in chains]
    for place, told in run_tasks(
        _train_chain, arguments, names, share, log_level=log_level, stop=stop
    ):
        of_place = left[place]
        if isinstance(told, TaskEnd):
            # What would have begun after it in a chain has not begun; in lock-step all end.
            for job in of_place[:1] if is_in_order(of_place) else of_place:
                yield _not_told(job, told, stop, is_sent=at_urls is not None)
        elif any(_is_of(told, job) for job in of_place):  # not told before its process died
            left[place] = [job for job in of_place if not _is_of(told, job)]
            yield told


def _train_chain(chain: Sequence[Job], at_urls: StudyCopies | None) -> Iterator[RunOutcome]:
    """Train in a task what is one process's."""
    # The study's signal comes as SIGINT; SIGTERM is of who takes the machine away.
    with StopSignals(insistent=True) as stop:
        outcomes = run_chain(chain, True, ALONE, stop)
        if at_urls is not None:
            outcomes = sent(outcomes, at_urls.open(chain))
        for outcome in outcomes:
            if stop.received == signal.SIGTERM and outcome.exit_code > 128:
                # All is saved, and sent. For Ray it is a death, and the task begins again.
                os._exit(outcome.exit_code)
            yield outcome


def _not_told(job: Job, end: TaskEnd, stop: StopSignals, *, is_sent: bool) -> RunOutcome:
    """Return how a run ended of which its task has not told before its own end."""
    if stop.received is not None:
        name = signal.Signals(stop.received).name
        saved = "saved, and sent where the store took it" if is_sent else "saved"
        return RunOutcome(
            job=job, folder=None, exit_code=128 + stop.received,
            error=f"stopped by {name}; what had begun is {saved}: the same command goes on from "
            "there",
        )  # fmt: skip
    assert end.error is not None, "a task that comes to its end tells of all its runs"
    return RunOutcome(job=job, folder=None, error=str(end.error), exit_code=end.error.exit_code)


def _is_of(outcome: RunOutcome, job: Job) -> bool:
    return (job.level, job.config) == (outcome.job.level, outcome.job.config)


def _name(chain: Sequence[Job]) -> str:
    levels = dict.fromkeys(str(job.level) for job in chain)
    lambdas = dict.fromkeys(f"{job.config.training.lmbda:g}" for job in chain)
    return f"level {', '.join(levels)}, lambda {', '.join(lambdas)}"


def refuse_beside_ray(world: World, *, resume: str) -> None:
    """Raise ConfigError for what asks of train-level another thing than --ray does."""
    if world.size > 1:
        raise ConfigError("--ray: its tasks train one run each: start it once, without torchrun")
    if resume == "never":
        raise ConfigError(
            "--resume never: with --ray a task that dies goes on from its checkpoint: name a new "
            "--out to begin anew"
        )
