"""Tasks on a Ray cluster: each yields what it has; one that dies begins again.

It has to find what it did before in files that all nodes see, or in an object store: it works in
the folder in which the command was called, and is given the same arguments again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.errors import ConfigError, UserError
from configs.log_setup import setup_logging
from data.system.ray_cluster import Cluster
from data.system.seen_folders import enter_folder
from data.system.stop_signals import StopSignals

log = logging.getLogger(__name__)

MOST_DEATHS = 5
"""Of a task that has yielded nothing in between, or over one unit; then it is given up."""

_PAUSE_S = 15.0
"""Before it begins again after its second death in a row; after each further one as much longer.

What took a node's memory, or a dead node's lock on a network disk, may be gone by then.
"""
_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskShare:
    """What a task takes of its node while it runs."""

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    """Several tasks share a GPU of which each takes a fraction."""

    @property
    def num_threads(self) -> int:
        """Return how many threads compute in it."""
        return max(1, int(self.num_cpus))


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEnd:
    """A task yields no more. `error` says why before its end, None if it came to that."""

    error: UserError | None = None


_STOPPED = TaskEnd(error=UserError("stopped: the same command goes on from there"))


def share_of(
    cluster: Cluster, device: str, num_cpus: float | None, num_gpus: float | None
) -> TaskShare:
    """Return a task's share of a cluster, on a device that the user chose: auto, cpu or cuda.

    Without numbers it is a core, and a GPU if there are any. Raises ConfigError if no node has
    that, or device and number do not go together.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device}: Ray chooses each task's GPU: use auto, cpu or cuda")
    if num_gpus is None:
        uses_gpu = device == "cuda" or (device == "auto" and cluster.num_gpus > 0)
        num_gpus = 1.0 if uses_gpu else 0.0
    share = TaskShare(num_cpus=1.0 if num_cpus is None else num_cpus, num_gpus=num_gpus)
    if device != "auto" and (share.num_gpus > 0) != (device == "cuda"):
        raise ConfigError(
            f"--ray-gpus {num_gpus:g}: does not go with --device {device}: leave out one of them"
        )
    if share.num_gpus > 1 and share.num_gpus % 1:
        raise ConfigError(f"--ray-gpus {num_gpus:g}: give a fraction below 1, or a whole number")
    if not any(
        node.num_cpus >= share.num_cpus and node.num_gpus >= share.num_gpus
        for node in cluster.nodes
    ):
        raise ConfigError(
            f"--ray: no node of the cluster has {share.num_cpus:g} CPUs and {share.num_gpus:g} "
            "GPUs for a task: ask for fewer (--ray-cpus, --ray-gpus), or wait for its nodes"
        )
    return share


def run_tasks(
    work: Callable[..., Iterator[Any]],
    arguments: Sequence[tuple[Any, ...]],
    names: Sequence[str],
    share: TaskShare,
    *,
    log_level: str,
    stop: StopSignals,
) -> Iterator[tuple[int, Any]]:
    """Run `work` once for each of `arguments`; yield (place, value) for all that each yields.

    `names` are what the log and Ray call them. The last value of a place is its `TaskEnd`. A task
    that died may yield again what it had yielded before. After a signal no task begins, and those
    that run are told: what they yield then may be lost, but not what they save. Works on the
    cluster that is connected.
    """
    import ray

    in_task = ray.remote(_in_task)
    common = (str(Path.cwd()), log_level, share.num_threads, work)

    def begin(place: int) -> Any:
        task = in_task.options(
            name=names[place], num_cpus=share.num_cpus, num_gpus=share.num_gpus,
            num_returns="streaming", max_retries=0,
        )  # fmt: skip
        return task.remote(*common, arguments[place])

    # Ray's own generator of what a task yields -> its place.
    running: dict[Any, int] = {begin(place): place for place in range(len(arguments))}
    paused: dict[int, float] = {}
    deaths: Counter[int] = Counter()
    is_told = False
    while running or paused:
        if stop.received is not None and not is_told:
            is_told = True
            for values in running:
                ray.cancel(values)
            yield from ((place, _STOPPED) for place in paused)
            paused.clear()
        for place in [place for place, due in paused.items() if due <= time.monotonic()]:
            del paused[place]
            running[begin(place)] = place
        if not running:
            time.sleep(_POLL_S)
            continue
        ready: list[Any] = ray.wait(list(running), timeout=_POLL_S)[0]
        for values in ready:
            place = running[values]
            value: Any
            try:
                value = ray.get(next(values))
            except StopIteration:
                value = TaskEnd()
            except ray.exceptions.RayError as error:
                deaths[place] += 1
                if is_told:
                    value = _STOPPED
                elif _has_died(error) and deaths[place] < MOST_DEATHS:
                    log.warning("%s: %s: it begins again", names[place], _in_words(error))
                    del running[values]
                    paused[place] = time.monotonic() + _PAUSE_S * (deaths[place] - 1)
                    continue
                else:
                    value = TaskEnd(error=_user_error(error, deaths[place]))
            if isinstance(value, TaskEnd):
                del running[values]
            else:
                deaths[place] = 0
            yield place, value


def _in_task(
    folder: str, log_level: str, num_threads: int, work: Callable[..., Iterator[Any]],
    arguments: tuple[Any, ...],
) -> Iterator[Any]:  # fmt: skip
    enter_folder(folder)
    setup_logging(log_level)
    torch.set_num_threads(num_threads)
    yield from work(*arguments)


def _has_died(error: Exception) -> bool:
    """Say whether a task's process or node is gone, with no fault of what it computed."""
    import ray

    return isinstance(
        error,
        ray.exceptions.WorkerCrashedError
        | ray.exceptions.NodeDiedError
        | ray.exceptions.OutOfMemoryError
        | ray.exceptions.ObjectLostError,
    )


def _user_error(error: Exception, num_deaths: int) -> UserError:
    cause = getattr(error, "cause", None)
    if isinstance(cause, UserError):
        return cause
    if _has_died(error):
        times = "" if num_deaths == 1 else f", {num_deaths} times in a row"
        return UserError(f"{_in_words(error)}{times}: the same command goes on from there")
    log.error("%s", error)  # with the worker's traceback
    return UserError(f"its task failed: {_in_words(error)}")


def _in_words(error: Exception) -> str:
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its node lacked memory (with larger --ray-cpus fewer tasks run at once)"
    if isinstance(error, ray.exceptions.NodeDiedError):
        return "its node is gone"
    if _has_died(error):
        return "its process was killed"
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
