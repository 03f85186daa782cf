"""What an extraction would take on several nodes like the one that was timed."""

from __future__ import annotations

import dataclasses

from data.costs.cost_model import Machines, Task, duration, hours
from extract.dry_run.estimate import Estimate


def line_on_nodes(estimate: Estimate, num_nodes: int, devices_per_node: int) -> str:
    """Return how long it takes there, with a disk for each node and with one for all.

    One process was timed, on one device; each device takes units of images as they come. Of the
    rate at which this machine writes, all nodes together get as much if they write to one disk.
    """
    tasks = [
        Task(
            device_seconds=estimate.seconds / max(1, estimate.num_units_due),
            num_bytes=estimate.needed_bytes / max(1, estimate.num_units_due),
        )
    ] * estimate.num_units_due
    own_disks = Machines(
        num_nodes=num_nodes, devices_per_node=devices_per_node,
        link_bytes_per_s=estimate.speed.write_bytes_per_s,
    )  # fmt: skip
    one_disk = dataclasses.replace(own_disks, store_bytes_per_s=own_disks.link_bytes_per_s)
    apart, together = (duration(tasks, machines) for machines in (own_disks, one_disk))
    needed = estimate.needed_bytes / apart.seconds if apart.seconds else 0.0
    return (
        f"{num_nodes} x {devices_per_node} such devices on {num_nodes} nodes: about "
        f"{hours(apart.seconds)} ({apart.limit}), if each node has such a disk, {needed / 1e9:.2f} "
        f"GB/s in all; about {hours(together.seconds)} ({together.limit}), if all write to this one"
    )
