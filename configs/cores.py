"""Which cores a command takes, and how its threads wait: settled before torch is loaded.

Threads of OpenMP share out each layer and wait for each other, by default busily for milliseconds.
Where other processes want the same cores, a thread then waits for one that its own waiting keeps
from running: training beside one busy process on two cores was 13 to 20 times slower.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from pathlib import Path

log = logging.getLogger(__name__)

_WATCHED_S = 0.2
_SHORT_WAIT = ("GOMP_SPINCOUNT", "4000")
"""Rounds of busy waiting, instead of 300,000: nearly as fast where nobody else computes, and a
fifth of a millisecond is all that is lost where somebody begins to."""
_HOW_TO_WAIT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")

_is_ours = False  # the number of threads, and not the user's


def share_cores() -> None:
    """Let torch, which must not be loaded yet, take the cores that are free, and wait briefly.

    What the user has set stays (OMP_NUM_THREADS, OMP_WAIT_POLICY); with torch loaded, all stays.
    """
    global _is_ours
    if "torch" in sys.modules:
        return
    is_shared = False
    if "OMP_NUM_THREADS" not in os.environ:
        _is_ours = True
        # As many as torch takes of itself: two threads of one core share what both need.
        num_physical = _num_physical()
        most = min(num_physical, usable_cores())
        threads = _share(most, idle_cores(_WATCHED_S))
        is_shared = threads < most
        if threads < num_physical:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        if is_shared:
            log.info(
                "taking %d of %d cores, as others are busy (OMP_NUM_THREADS=%d takes all)",
                threads, most, most,
            )  # fmt: skip
    if not any(name in os.environ for name in _HOW_TO_WAIT):
        name, value = ("OMP_WAIT_POLICY", "PASSIVE") if is_shared else _SHORT_WAIT
        os.environ[name] = value


def threads_for_resumed(num_threads: int) -> int | None:
    """Return that number if a run that had it may have it again; None to leave all as it is.

    The user's own choice stays, and so does what a machine has not.
    """
    return num_threads if _is_ours and num_threads <= usable_cores() else None


def usable_cores() -> int:
    """Return how many cores this process may use: by affinity, and by its control group's quota."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), quota_cores())))


def quota_cores() -> float:
    """Return the CPU seconds a second that the control groups of this process allow; or inf."""
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    found = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUPS / "cpu" if controllers else _CGROUPS
        group = root / path.lstrip("/")
        # A container may see its own group at the root only.
        for folder in (group, *group.parents):
            found.append(_quota(folder))
            if folder == root:
                break
    return min(found)


def _quota(folder: Path) -> float:
    """Return one group's quota, in cores; inf if it has none."""
    try:
        if (folder / "cpu.max").exists():  # version 2: "max 100000" or "150000 100000"
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def idle_cores(seconds: float) -> float:
    """Return how many of this process's cores nobody used for so long, while it slept."""
    before = _ticks()
    time.sleep(seconds)
    after = _ticks()
    idle = 0.0
    for name in before.keys() & after.keys():
        idle_ticks, all_ticks = (
            now - then for now, then in zip(after[name], before[name], strict=True)
        )
        idle += idle_ticks / all_ticks if all_ticks else 1.0
    return idle if before else math.inf


def _ticks() -> dict[str, tuple[int, int]]:
    """Return, for each core that this process may use, ticks without work, and all; or nothing."""
    try:
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in (_PROC / "stat").read_text().splitlines()]
    except (AttributeError, OSError):  # another system
        return {}
    counts = {line[0]: [int(each) for each in line[1:9]] for line in lines if line[0] in mine}
    # user, nice, system, idle, waiting for a disk, interrupts (two kinds), taken by another machine
    return {name: (ticks[3] + ticks[4], sum(ticks)) for name, ticks in counts.items()}


def _num_physical() -> int:
    """Return how many cores this process may use, of which each may run several threads."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for number in os.sched_getaffinity(0):
        try:
            siblings = (_CPUS / f"cpu{number}/topology/thread_siblings_list").read_text()
        except OSError:
            siblings = str(number)
        cores.add(siblings)
    return len(cores)


def _share(most: int, idle: float) -> int:
    """Return how many threads to run: for the idle cores, and for half of all at least.

    Half is what two processes would give each other, whoever came first.
    """
    return max(round(min(most, idle)), (most + 1) // 2)
