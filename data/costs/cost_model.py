"""How long work takes on nodes that are alike: of computing and moving bytes, one is the limit.

The two overlap. All rates are measured, or said by who plans; nothing here knows a machine. What
the model leaves out (starting, stragglers, nodes that fail) comes on top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """Nodes that are alike; `devices_per_node` compute, the measured one is one of them."""

    num_nodes: int = 1
    devices_per_node: int = 1
    link_bytes_per_s: float = math.inf
    """Of each node: its own disk, or its network."""
    store_bytes_per_s: float = math.inf
    """Of what all nodes read from or write to, together; infinite if each has a disk of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What one device does alone, from begin to end: a run, a chain of runs, a unit of images."""

    device_seconds: float
    num_bytes: float = 0.0
    """That pass between a node and the files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duration:
    """How long it takes, and for what: the largest of `seconds_of`, in seconds each."""

    seconds_of: dict[str, float]

    @property
    def seconds(self) -> float:
        """The larger of all."""
        return max(self.seconds_of.values())

    @property
    def limit(self) -> str:
        """What takes longest, in words."""
        return max(self.seconds_of, key=self.seconds_of.__getitem__)


COMPUTING, LONGEST, LINKS, STORE = "computing", "longest task", "nodes' links", "common store"


def duration(tasks: Iterable[Task], machines: Machines) -> Duration:
    """Return how long the tasks take, shared out over all devices.

    No more nodes and devices count than there are tasks: five are no faster on a hundred nodes.
    """
    tasks = list(tasks)
    if not tasks:
        return Duration(seconds_of={COMPUTING: 0.0})
    num_nodes = min(machines.num_nodes, len(tasks))
    num_devices = min(machines.num_nodes * machines.devices_per_node, len(tasks))
    num_bytes = sum(task.num_bytes for task in tasks)
    return Duration(
        seconds_of={
            COMPUTING: sum(task.device_seconds for task in tasks) / num_devices,
            LONGEST: max(task.device_seconds for task in tasks),
            LINKS: num_bytes / (num_nodes * machines.link_bytes_per_s),
            STORE: num_bytes / machines.store_bytes_per_s,
        }
    )


def bytes_from_files(
    pass_bytes: float, times: float, whole_bytes: float, memory_bytes: float
) -> float:
    """Return what comes from files of `times` passes that take `pass_bytes` of `whole_bytes` each.

    What fits into `memory_bytes` is read once, and then stays; of what does not, each pass is read
    anew.
    """
    every_time = pass_bytes * times
    return min(whole_bytes, every_time) if whole_bytes <= memory_bytes else every_time


def hours(seconds: float) -> str:
    """Return a duration as a user reads it."""
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds:.0f} s"
