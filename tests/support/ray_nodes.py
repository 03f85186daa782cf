"""A Ray cluster of several nodes on this machine."""

from __future__ import annotations

import pickle
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError

_PATIENCE_S = 240  # on a machine with much else to do
_LITTLE = {
    "object_store_memory": 80 * 2**20, "include_dashboard": False, "include_log_monitor": False,
}  # fmt: skip


@contextmanager
def ray_nodes(num_nodes: int, **each: Any) -> Iterator[str]:
    """Start so many nodes, `each` with these resources; yield the address of the first."""
    with started_nodes(num_nodes, **each) as cluster:
        yield cluster.address


@contextmanager
def started_nodes(
    num_nodes: int, *, system: dict[str, Any] | None = None, **each: Any
) -> Iterator[Any]:
    """As `ray_nodes`, with settings of Ray's own; yield the cluster, to take nodes away."""
    from ray.cluster_utils import Cluster

    short = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # the names of sockets are short
    cluster = Cluster()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {
            "USAGE_STATS_ENABLED": 0,
            "AUTH_MODE": "disabled",
            "TMPDIR": short,
            "agent_register_timeout_ms": _PATIENCE_S * 1000,
            "worker_register_timeout_seconds": _PATIENCE_S,
            "worker_niceness": 0,
            "prestart_worker_first_driver": 0,
            "enable_worker_prestart": 0,
            "memory_monitor_refresh_ms": 0,  # what others take of the memory is their affair
        }.items():
            patched.setenv(f"RAY_{name}", str(value))
        try:
            with own_signals():
                cluster.add_node(wait=False, _system_config=system, **_LITTLE, **each)
                for _ in range(num_nodes - 1):
                    cluster.add_node(wait=False, **_LITTLE, **each)
                cluster.wait_for_nodes(timeout=_PATIENCE_S)
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(short, ignore_errors=True)


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep this process's way to end, which Ray's nodes replace by one of theirs."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def who_holds(lock: Path) -> int:
    """Return the id of the process that has a lock file locked."""
    inode = str(lock.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        # 1: FLOCK  ADVISORY  WRITE <pid> <major>:<minor>:<inode> <start> <end>
        fields = line.split()
        if fields[5].split(":")[-1] == inode:
            return int(fields[4])
    raise LookupError(f"nobody holds {lock}")


@contextmanager
def in_this_process(copies: Path) -> Iterator[None]:
    """Let `--ray local` do its tasks one by one here, as on nodes that have no copies yet.

    Nothing of the command's own reaches them but what can be sent to another machine.
    """
    from data.system.ray_cluster import Cluster, ClusterNode
    from data.system.ray_tasks import TaskEnd

    @contextmanager
    def connected(_: str) -> Iterator[Cluster]:
        yield Cluster((ClusterNode(num_cpus=1, num_gpus=0),))

    def run_tasks(
        work: Any, arguments: Sequence[tuple[Any, ...]], *_: Any, **__: Any
    ) -> Iterator[tuple[int, Any]]:
        for place, each in enumerate(arguments):
            sent = pickle.dumps(each)
            with _another_disk(copies):
                try:
                    values = list(work(*pickle.loads(sent)))
                    end = TaskEnd()
                except UserError as error:
                    values, end = [], TaskEnd(error=error)
            yield from ((place, value) for value in (*values, end))

    with pytest.MonkeyPatch.context() as patched:
        for module in ("train.study.study_on_ray", "analyze.analysis_on_ray"):
            patched.setattr(f"{module}.connected", connected)
            patched.setattr(f"{module}.run_tasks", run_tasks)
        yield


@contextmanager
def _another_disk(folder: Path) -> Iterator[None]:
    """Let a folder be an empty one, of another machine, meanwhile."""
    own = folder.rename(folder.with_name("the command's own"))
    folder.mkdir()
    yield
    shutil.rmtree(folder)
    own.rename(folder)
