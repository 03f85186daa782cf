"""A Ray cluster of several nodes on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STORE_BYTES = 80 * 2**20
_PORTS = (
    "metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)  # fmt: skip


@contextmanager
def ray_nodes(num_nodes: int, **each: Any) -> Iterator[str]:
    """Start so many nodes, `each` with these resources; yield the address of the first."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster()
    try:
        for _ in range(num_nodes):
            cluster.add_node(
                object_store_memory=_STORE_BYTES, include_dashboard=False, **_free_ports(), **each
            )
        yield cluster.address
    finally:
        cluster.shutdown()


def _free_ports() -> dict[str, int]:
    """Choose the ports: a node on a busy machine does not wait long enough to learn them."""
    sockets = [socket.socket() for _ in _PORTS]
    for each in sockets:
        each.bind(("", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return dict(zip(_PORTS, ports, strict=True))


def who_holds(lock: Path) -> int:
    """Return the id of the process that has a lock file locked."""
    inode = str(lock.stat().st_ino)
    for line in Path("/proc/locks").read_text().splitlines():
        # 1: FLOCK  ADVISORY  WRITE <pid> <major>:<minor>:<inode> <start> <end>
        fields = line.split()
        if fields[5].split(":")[-1] == inode:
            return int(fields[4])
    raise LookupError(f"nobody holds {lock}")
