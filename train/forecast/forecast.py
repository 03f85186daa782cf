"""train-level --dry-run: runs, steps, hours, bytes read and memory of a study, from trial steps."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from data.cache.cache_folder import CacheFolder
from data.costs.cost_model import Machines, Task, bytes_from_files, duration, hours
from data.costs.read_rate import read_bytes_per_s
from train.context.context_runs import context_size
from train.forecast.trial import StepCost, step_cost
from train.loop.job import Job
from train.study.chain import chains_of, epochs_left, is_in_order
from train.study.coarse_to_fine import lines_of_decoded

_SHARE_OF_MEMORY = 0.5
"""Of the machine's, that the system keeps files in."""
_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
# What costs of a step do not depend on.
_NOT_OF_A_STEP = {"lmbda", "seed", "epochs", "context", "init_from", "warm_start"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunForecast:
    """What is left of a run."""

    job: Job
    cost: StepCost
    num_epochs: int

    @property
    def num_steps(self) -> int:
        """How many steps it has still to make."""
        return self.num_epochs * self.cost.steps_per_epoch

    @property
    def num_validations(self) -> float:
        """How often it validates."""
        return self.num_epochs / self.job.config.validation.interval

    @property
    def seconds(self) -> float:
        """Of computing, alone on a device."""
        return self.num_steps * self.cost.step_s + self.num_validations * self.cost.validation_s

    def bytes_of_steps(self, memory_bytes: float) -> float:
        """Return what of the train split comes from files; what fits into memory does once."""
        return bytes_from_files(
            self.cost.step_bytes, self.num_steps, self.cost.train_bytes, memory_bytes
        )

    def bytes_of_validations(self, memory_bytes: float) -> float:
        """Return the same of the val split."""
        return bytes_from_files(
            self.cost.val_bytes, self.num_validations, self.cost.val_bytes, memory_bytes
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyForecast:
    """A study's chains, each of which one device trains, and what was measured of this machine."""

    chains: list[list[RunForecast]]
    read_bytes_per_s: float
    memory_bytes: float
    """In which files stay."""
    peak_bytes: int
    """The most that this process has held while steps were tried, mapped files included."""
    gpu_bytes: int | None

    def tasks(self) -> list[Task]:
        """Return what a device does alone: a run, runs in order, or in lock-step.

        In lock-step a batch is read once for all runs; each validates by itself.
        """
        found = []
        for chain in self.chains:
            steps = [run.bytes_of_steps(self.memory_bytes) for run in chain]
            validations = [run.bytes_of_validations(self.memory_bytes) for run in chain]
            read = max(steps) if _in_lock_step(chain) else sum(steps)
            found.append(
                Task(
                    device_seconds=sum(run.seconds for run in chain),
                    num_bytes=read + sum(validations),
                )
            )
        return [task for task in found if task.device_seconds]

    def table(self, num_nodes: int | None, devices_per_node: int) -> list[str]:
        """Return the forecast as lines; `num_nodes`: also on so many, with all their devices."""
        lines = [
            f"{'level':>6} {'runs':>5} {'left':>5} {'steps':>9} {'ms a step':>10} "
            f"{'s validating':>13} {'time':>8} {'GB read':>10}"
        ]
        runs = [run for chain in self.chains for run in chain]
        for level in sorted({run.job.level for run in runs}, key=str):
            its = [run for run in runs if run.job.level == level]
            read = sum(
                run.num_steps * run.cost.step_bytes + run.num_validations * run.cost.val_bytes
                for run in its
            )
            lines.append(
                f"{level:>6} {len(its):>5} {sum(run.num_epochs > 0 for run in its):>5} "
                f"{sum(run.num_steps for run in its):>9} {_mean_ms(its):>10.2f} "
                f"{max(run.cost.validation_s for run in its):>13.2f} "
                f"{hours(sum(run.seconds for run in its)):>8} "
                f"{read / 1e9:>10.3f}"
            )
        tasks = self.tasks()
        one = duration(tasks, Machines(link_bytes_per_s=self.read_bytes_per_s))
        from_files = sum(task.num_bytes for task in tasks)
        lines.append(
            f"about {hours(one.seconds)} at most ({one.limit}), for {len(tasks)} tasks in turn; "
            f"{from_files / 1e9:.3f} GB come from files, at {self.read_bytes_per_s / 1e6:.0f} MB/s"
        )
        if num_nodes is not None:
            lines.append(self._on_nodes(tasks, num_nodes, devices_per_node))
        gpu = "" if self.gpu_bytes is None else f", {self.gpu_bytes / 1e9:.2f} GB of the GPU"
        lines.append(f"memory: {self.peak_bytes / 1e9:.2f} GB{gpu}, as measured")
        return lines

    def _on_nodes(self, tasks: list[Task], num_nodes: int, devices_per_node: int) -> str:
        own_disks = Machines(
            num_nodes=num_nodes, devices_per_node=devices_per_node,
            link_bytes_per_s=self.read_bytes_per_s,
        )  # fmt: skip
        one_disk = replace(own_disks, store_bytes_per_s=self.read_bytes_per_s)
        both = (duration(tasks, machines) for machines in (own_disks, one_disk))
        apart, together = (f"about {hours(each.seconds)} ({each.limit})" for each in both)
        return (
            f"{num_nodes} x {devices_per_node} such devices on {num_nodes} nodes: {apart}, if each "
            f"node has such a disk; {together}, if all read from this one"
        )


def lines_of_dry_run(
    jobs: Sequence[Job], *, go_on: bool, num_nodes: int | None, devices_per_node: int
) -> list[str]:
    """Return what a study takes, and what is decoded in it, as lines; raises as `foretell`."""
    table = foretell(jobs, go_on=go_on).table(num_nodes, devices_per_node)
    return [*table, *lines_of_decoded(jobs, go_on=go_on)]


def foretell(jobs: Sequence[Job], *, go_on: bool) -> StudyForecast:
    """Try the steps of each kind of run in a study; what is finished takes no time.

    `go_on`: as the study does, with what is there of its runs. Raises as the study would.
    """
    costs: dict[str, StepCost] = {}
    chains = []
    for chain in chains_of([job.settled() for job in jobs]):
        runs: list[RunForecast] = []
        for job, num_epochs in zip(chain, epochs_left(chain, go_on), strict=True):
            sized = _beside(job, runs[-1].job) if runs and job.chain is not None else job
            key = _kind(sized)
            if num_epochs and key not in costs:
                costs[key] = step_cost(sized)
            runs.append(
                RunForecast(job=sized, cost=costs.get(key, _NOTHING), num_epochs=num_epochs)
            )
        chains.append(runs)
    cache = CacheFolder.of(jobs[0].train_cache).path
    on_gpu = torch.device(jobs[0].device).type == "cuda"
    return StudyForecast(
        chains=chains,
        read_bytes_per_s=read_bytes_per_s(cache),
        memory_bytes=_SHARE_OF_MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT_BYTES,
        gpu_bytes=torch.cuda.max_memory_reserved(jobs[0].device) if on_gpu else None,
    )


def _beside(job: Job, coarser: Job) -> Job:
    """Return a job of a chain with the size of what its codec sees of the next coarser level."""
    manifest = CacheFolder.of(job.train_cache).manifest
    level, below = (manifest.level(int(each.level)) for each in (job, coarser))
    size = context_size(level, below, coarser.config.model, "--coarse-to-fine")
    model = job.config.model.model_copy(update={"context": size})
    return replace(job, config=job.config.model_copy(update={"model": model}))


def _kind(job: Job) -> str:
    """Return what the runs have in common of which a step costs the same."""
    config = job.config
    training = config.training.model_dump(mode="json", by_alias=True, exclude=_NOT_OF_A_STEP)
    model = config.model.model_dump(mode="json", by_alias=True)
    caches = [str(CacheFolder.of(cache).path) for cache in (job.train_cache, job.val_cache)]
    return json.dumps([job.level, caches, model, training], sort_keys=True)


def _in_lock_step(chain: Sequence[RunForecast]) -> bool:
    return not is_in_order([run.job for run in chain])


def _mean_ms(runs: Sequence[RunForecast]) -> float:
    """Return the milliseconds of a step, over all that are left."""
    num_steps = sum(run.num_steps for run in runs)
    return 1e3 * sum(run.num_steps * run.cost.step_s for run in runs) / max(1, num_steps)


_NOTHING = StepCost(
    step_s=0.0, steps_per_epoch=0, step_bytes=0.0, validation_s=0.0, train_bytes=0, val_bytes=0
)
