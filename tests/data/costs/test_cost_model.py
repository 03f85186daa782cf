"""The slowest of computing, the longest task, links and store is how long work takes."""

from __future__ import annotations

import pytest

from data.costs.cost_model import Machines, Task, bytes_from_files, duration, hours


def of(tasks: list[Task], **machines: float) -> tuple[float, str]:
    found = duration(tasks, Machines(**machines))  # type: ignore[arg-type]
    return found.seconds, found.limit


def test_the_limit_moves_from_computing_to_links_to_the_store_to_the_longest_part() -> None:
    tasks = [Task(device_seconds=10.0, num_bytes=100.0)] * 40
    assert of(tasks, link_bytes_per_s=40.0, store_bytes_per_s=80.0) == (400.0, "computing")
    assert of(tasks, devices_per_node=8, link_bytes_per_s=40.0) == (100.0, "nodes' links")
    many = {"num_nodes": 10, "devices_per_node": 8}
    assert of(tasks, **many, link_bytes_per_s=40.0, store_bytes_per_s=80.0) == (
        50.0,
        "common store",
    )
    uneven = [*tasks, Task(device_seconds=70.0)]
    assert of(uneven, **many) == (70.0, "longest task")


def test_more_nodes_than_parts_are_of_no_use() -> None:
    tasks = [Task(device_seconds=1.0, num_bytes=10.0)] * 2
    assert of(tasks, num_nodes=2, link_bytes_per_s=1.0) == of(
        tasks, num_nodes=100, link_bytes_per_s=1.0
    )


def test_nothing_to_do_takes_no_time() -> None:
    assert of([]) == (0.0, "computing")


@pytest.mark.parametrize(
    ("memory_bytes", "expected"), [(999, 4 * 600), (1000, 1000)], ids=["too large", "stays"]
)
def test_what_fits_into_memory_is_read_once(memory_bytes: int, expected: int) -> None:
    assert bytes_from_files(600, 4, 1000, memory_bytes) == expected
    assert bytes_from_files(600, 1, 1000, memory_bytes) == 600  # a pass of crops is not all of it


def test_hours_begin_where_seconds_are_hard_to_read() -> None:
    assert (hours(3599), hours(5400)) == ("3599 s", "1.50 h")
