"""Tasks on a cluster of two nodes: what they yield, how they end, and what becomes of the dead."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import ConfigError
from data.system.ray_cluster import AUTO, LOCAL, Cluster, ClusterNode, connected
from data.system.ray_tasks import TaskEnd, TaskShare, run_tasks, share_of
from data.system.stop_signals import StopSignals

pytest.importorskip("ray", reason="needs ray")
pytestmark = pytest.mark.usefixtures("ray_address")


def lives(deaths: Path, num_deaths: int, value: Any) -> Iterator[Any]:
    """Die so many times, which a file counts; yield what there is in between."""
    yield f"{value} begins"
    with deaths.open("a") as file:
        file.write("x")
    if deaths.stat().st_size <= num_deaths:
        time.sleep(0.2)  # let what was yielded arrive
        os.kill(os.getpid(), signal.SIGKILL)
    yield value


def dies(_: str) -> Iterator[Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield "never"


def fails(kind: type[Exception]) -> Iterator[Any]:
    yield "before"
    raise kind("what is wrong")


def tells(_: str) -> Iterator[Any]:
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield str(Path.cwd()), torch.get_num_threads(), gpus
    time.sleep(0.3)


def saves(path: Path) -> Iterator[Any]:
    with StopSignals(insistent=True) as stop:
        yield "begun"
        path.with_suffix(".works").touch()  # Ray takes no task up again that it cancels at a yield
        while stop.received is None:
            time.sleep(0.02)
        path.write_text("saved")
        yield "saved"


def run(work: Any, *arguments: tuple[Any, ...], **share: float) -> dict[int, list[Any]]:
    found = defaultdict(list)
    names = [f"task {place}" for place in range(len(arguments))]
    with StopSignals() as stop:
        for place, value in run_tasks(
            work, arguments, names, TaskShare(**share), log_level="info", stop=stop
        ):
            found[place].append(value)
    return dict(found)


def test_task_that_dies_begins_again_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = run(lives, (tmp_path / "one", 0, "one"), (tmp_path / "two", 2, "two"))
    assert found[0] == ["one begins", "one", TaskEnd()]
    assert found[1] == ["two begins"] * 3 + ["two", TaskEnd()]
    assert caplog.text.count("task 1: its process was killed: it begins again") == 2
    assert "task 0" not in caplog.text


def test_task_that_dies_each_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.system.ray_tasks.MOST_DEATHS", 2)
    ((end,),) = run(dies, ("",)).values()
    assert str(end.error) == (
        "its process was killed, 2 times in a row: the same command goes on from there"
    )


def test_mistake_of_the_user_is_told_as_it_is_and_one_of_ours_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = run(fails, (ConfigError,), (ValueError,))
    before, end = found[0]
    assert (before, type(end.error), str(end.error)) == ("before", ConfigError, "what is wrong")
    assert "ConfigError" not in caplog.text
    assert str(found[1][1].error) == "its task failed: ValueError: what is wrong"
    assert "in fails" in caplog.text


def test_tasks_work_in_the_folder_of_the_command_with_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(tells, ("",), ("",), num_cpus=2, num_gpus=0.5)
    # A GPU's number counts on its own node: both tasks share one, or have one on each.
    assert {each[0] for each in found.values()} == {(str(tmp_path), 2, "0")}


def test_signal_lets_running_tasks_save_and_begins_no_other(tmp_path: Path) -> None:
    both = [(tmp_path / f"{name}.saved",) for name in ("one", "two", "three")]
    found = defaultdict(list)
    with StopSignals() as stop:
        for place, value in run_tasks(
            saves, both, ["a", "b", "c"], TaskShare(num_cpus=2), log_level="info", stop=stop
        ):
            found[place].append(value)
            if len(found) == 2:
                while len(list(tmp_path.glob("*.works"))) < 2:
                    time.sleep(0.01)
                stop.received = signal.SIGINT
    begun = [values for values in found.values() if values[0] == "begun"]
    (never_begun,) = (values for values in found.values() if values not in begun)
    assert [each.error is not None for each in never_begun] == [True]
    for values in begun:  # what they yield after the signal arrives or is lost, as Ray has it
        assert values[1:-1] in ([], ["saved"])
        assert isinstance(values[-1], TaskEnd)
    assert len(list(tmp_path.glob("*.works"))) == len(list(tmp_path.glob("*.saved"))) == 2


@pytest.mark.parametrize(
    ("device", "cpus", "gpus", "share"),
    [
        ("auto", None, None, TaskShare(num_cpus=1, num_gpus=1)),
        ("auto", 2, 0, TaskShare(num_cpus=2, num_gpus=0)),
        ("cpu", 0.5, None, TaskShare(num_cpus=0.5, num_gpus=0)),
        ("cuda", None, 0.25, TaskShare(num_cpus=1, num_gpus=0.25)),
        ("cpu", None, 1, "--ray-gpus 1: does not go with --device cpu"),
        ("cuda", None, 0, "--ray-gpus 0: does not go with --device cuda"),
        ("cuda:1", None, None, "Ray chooses each task's GPU"),
        ("auto", None, 1.5, "give a fraction below 1"),
        ("auto", 5, None, "no node of the cluster has 5 CPUs and 1 GPUs for a task"),
        ("cuda", None, 2, "no node of the cluster has 1 CPUs and 2 GPUs for a task"),
    ],
)
def test_share_of_a_task_fits_device_and_cluster(
    device: str, cpus: float | None, gpus: float | None, share: TaskShare | str
) -> None:
    cluster = Cluster((ClusterNode(num_cpus=4, num_gpus=1),) * 2)
    if isinstance(share, str):
        with pytest.raises(ConfigError, match=share):
            share_of(cluster, device, cpus, gpus)
    else:
        assert share_of(cluster, device, cpus, gpus) == share


def test_cluster_without_gpus_trains_on_cpus() -> None:
    cluster = Cluster((ClusterNode(num_cpus=4, num_gpus=0),) * 2)
    assert share_of(cluster, "auto", None, None) == TaskShare(num_cpus=1, num_gpus=0)


def test_process_that_is_connected_already_stays_so_and_is_told_of_another_cluster() -> None:
    import ray

    here = ray.get_runtime_context().gcs_address
    for address in (here, AUTO, LOCAL):
        with connected(address) as cluster:
            assert cluster.num_nodes == 2
    with socket.create_server(("127.0.0.1", 0)) as server:
        another = f"127.0.0.1:{server.getsockname()[1]}"
        told = f"is connected to the Ray at {here}: name that one"
        with pytest.raises(ConfigError, match=told), connected(another):
            raise AssertionError("connected to two clusters")
    assert ray.is_initialized()
    assert run(tells, ("",))[0][-1] == TaskEnd()
