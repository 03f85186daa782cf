"""A Ray cluster to work on: the one at an address, a running one, or one that is started here.

Ray schedules, and does again what died; what is computed, and where it is written, it does not
know. Workers import the same code as the command: they get its PYTHONPATH. Their output stays in
Ray's own log files.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.cores import usable_cores
from configs.errors import ConfigError, MachineError, UserError

log = logging.getLogger(__name__)

AUTO = "auto"
"""The address that `--ray` alone stands for: a running cluster of this machine, or a new one."""
LOCAL = "local"
"""The address of a new one, whatever runs here."""

_ANSWER_S = 5.0
_OBJECT_STORE_BYTES = 2**27  # of our own: its workers see the files, and hand nothing over
_PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterNode:
    """What a machine of a cluster has."""

    num_cpus: float
    num_gpus: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes of a cluster, as they were when it was connected to."""

    nodes: tuple[ClusterNode, ...]

    @property
    def num_nodes(self) -> int:
        """How many there are."""
        return len(self.nodes)

    @property
    def num_cpus(self) -> float:
        """Of all nodes."""
        return sum(node.num_cpus for node in self.nodes)

    @property
    def num_gpus(self) -> float:
        """Of all nodes."""
        return sum(node.num_gpus for node in self.nodes)


def check_address(address: str) -> str:
    """Return the address if somebody answers there; LOCAL for AUTO if nobody runs here.

    Raises ConfigError if not, or if Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--ray: Ray is not installed: pip install 'fpn-feature-codecs[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == LOCAL:
        return address
    from ray._private.services import canonicalize_bootstrap_address

    shown = f"--ray {address}"
    if address == AUTO and (given := os.environ.get("RAY_ADDRESS")):
        address, shown = given, f"--ray: RAY_ADDRESS={given}"
    if address == AUTO:
        try:
            found = canonicalize_bootstrap_address(AUTO)
        except ConnectionError:
            found = None
        # Ray notes the last one that was started, and does not notice that it was killed.
        return AUTO if found is not None and _answers(found) else LOCAL
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in address:
        raise ConfigError(
            f"{shown}: is no address: give HOST:PORT of the head node, as `ray start --head` "
            "prints it, or nothing for a Ray on this machine"
        )
    # Ray itself tries for minutes.
    if not _answers(address):
        raise ConfigError(
            f"{shown}: nobody answers there: start a cluster (ray start --head), or give no "
            "address for a Ray on this machine"
        )
    return address


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Be connected to the cluster at `address` (HOST:PORT, AUTO or LOCAL) meanwhile.

    One that was started for that is stopped in the end, and dies with this process. A process that
    is connected already stays so, before and after: several commands of one script then share
    their workers. Raises ConfigError if Ray is not installed, nobody answers at the address, or it
    is not the one that the process is connected to; MachineError if none can be started.
    """
    wanted = check_address(address)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    is_own = not ray.is_initialized()
    if is_own:
        with _own_sigterm():
            _connect(wanted)
    else:
        _require_connection_to(wanted)
    try:
        cluster = Cluster(
            tuple(
                ClusterNode(
                    num_cpus=node["Resources"].get("CPU", 0.0),
                    num_gpus=node["Resources"].get("GPU", 0.0),
                )
                for node in ray.nodes()  # type: ignore[no-untyped-call]
                if node["Alive"]
            )
        )
        log.info(
            "Ray at %s%s: %d nodes, %g CPUs, %g GPUs",
            ray.get_runtime_context().gcs_address,
            " (started for this)" * (is_own and wanted == LOCAL),
            cluster.num_nodes, cluster.num_cpus, cluster.num_gpus,
        )  # fmt: skip
        yield cluster
    finally:
        if is_own:
            ray.shutdown()


def result(reference: Any) -> Any:
    """Wait for what a task or an actor's method returns; a UserError raised there is raised here.

    Other errors stay Ray's own, whose text has the worker's traceback.
    """
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S):
            return True
    except (OSError, OverflowError):
        return False


def _require_connection_to(address: str) -> None:
    """Raises ConfigError if this process is connected to another cluster than the one named."""
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    there = ray.get_runtime_context().gcs_address
    if address not in (AUTO, LOCAL) and canonicalize_bootstrap_address(address) != there:
        raise ConfigError(
            f"--ray {address}: this process is connected to the Ray at {there}: name that one, or "
            "call ray.shutdown() before"
        )


def _connect(address: str) -> None:
    """Raises as `connected`."""
    import ray

    paths = [str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    common: dict[str, Any] = {
        "address": address,
        "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
        "log_to_driver": False,
        "configure_logging": False,
    }
    try:
        if address != LOCAL:
            ray.init(**common)
            return
        ray.init(
            **common, num_cpus=usable_cores(), object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
        )  # fmt: skip
    except Exception as error:  # of Ray's own kinds, RuntimeError, ValueError, or no kind at all
        ray.shutdown()
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if address == LOCAL:
            raise MachineError(
                f"--ray: none runs here, and none could be started ({told}): its log files are in "
                "/tmp/ray/session_latest/logs"
            ) from error
        raise ConfigError(f"--ray {address}: cannot be worked on: {told}") from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the command's own way to stop, which Ray would replace by one of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
