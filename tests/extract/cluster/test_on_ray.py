"""Extraction on a real Ray of two nodes here: a worker, a node or the driver is killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from configs.errors import BadImageError, ConfigError
from data.cache.commit_log import FILE_NAME
from data.cache.plan import Unit
from data.places.local_copies import LocalCopies
from data.places.object_store import RemoteFolder
from data.system.ray_cluster import Cluster, ClusterNode, connected, result
from data.verification.check import verify_cache
from data.writing.handed_out import UnitDone
from extract.cluster.dealing import Dealer
from extract.cluster.on_ray import Workers, _Crew, _Member, workers_of
from tests.support.extraction import must_extract, shard_bytes, write_config
from tests.support.extraction_process import run_as_process, start_extraction
from tests.support.forked import start
from tests.support.object_server import ObjectServer
from tests.support.ray_nodes import started_nodes

PATIENCE_S = 600.0  # on a machine with much else to do


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head and a node of one core each; a dead node is noticed in seconds."""
    ray = pytest.importorskip("ray", reason="needs ray")
    ray.shutdown()  # of the cluster that other tests share
    noticed = {"health_check_period_ms": 500, "health_check_failure_threshold": 10}
    with started_nodes(2, system=noticed, num_cpus=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def long_config(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = tiny_config.read_text(encoding="utf-8").replace("num_scenes: 8", "num_scenes: 24")
    return write_config(tmp_path_factory.mktemp("ray") / "long.yaml", text)


@pytest.fixture(scope="module")
def whole(long_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it. Read only."""
    return must_extract(long_config, tmp_path_factory.mktemp("whole"))


def lines_of(folder: Path) -> list[bytes]:
    """The whole lines of the log that are of units."""
    path = folder / FILE_NAME
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [line for line in lines if not line.startswith(b'{"plan":')]


def wait_until(process: BaseProcess, is_so: Callable[[], bool], output: Path) -> None:
    """Return when it is so; the process must not have ended before."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert process.is_alive(), output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.005)


def actors() -> list[int]:
    """Process ids of all workers that hold a detector: Ray names processes by what they run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::DetectorWorker"):
            found.append(int(folder.name))
    return found


def extract_from_afar(options: list[str], environment: dict[str, str], output: Path) -> None:
    """Run the command on nodes none of which sees its folders."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        patched.setattr("extract.cluster.on_ray.signed", lambda _: nullcontext("/nowhere/seen"))
        run_as_process(options, output)


def test_what_workers_far_from_the_files_compute_is_sent_to_the_url_though_one_is_killed(
    nodes: Any, object_server: ObjectServer, bucket_url: str, long_config: Path, whole: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    output, local = tmp_path / "output", tmp_path / "local"
    before = set(actors())
    process = start(extract_from_afar, [
        "--config", str(long_config), "--features", bucket_url, "--local-cache", str(local),
        "--ray", nodes.address, "--ray-cpus", "1",
    ], object_server.environment(), output)  # fmt: skip
    folder = LocalCopies(local).path_of(bucket_url) / "train"
    wait_until(process, lambda: len(lines_of(folder)) > 0, output)
    os.kill(next(pid for pid in actors() if pid not in before), signal.SIGKILL)
    process.join(timeout=PATIENCE_S)
    assert process.exitcode == 0, output.read_text()
    assert "does not see the cache" in output.read_text()
    assert "a worker died" in output.read_text()
    remote = RemoteFolder(f"{bucket_url}/train")
    contents = {name: remote.get(name) for name in remote.sizes()}
    commits = {name: x for name, x in contents.items() if name.startswith("commits/")}
    shas = {name: hashlib.sha256(x).hexdigest() for name, x in contents.items()}
    assert {name: x for name, x in shas.items() if name not in commits} == shard_bytes(whole)
    assert sorted(commits.values()) == sorted((whole / FILE_NAME).read_bytes().splitlines(True))


def test_killing_workers_the_command_and_a_node_loses_nothing_and_stores_nothing_twice(
    nodes: Any, long_config: Path, whole: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "ray" / "train", tmp_path / "output"
    options = ["--ray", nodes.address, "--ray-cpus", "1"]

    before = set(actors())
    process = start_extraction(long_config, tmp_path / "ray", output, *options)
    wait_until(process, lambda: len(lines_of(folder)) > 0, output)
    mine = [pid for pid in actors() if pid not in before]
    os.kill(mine[0], signal.SIGKILL)
    seen = len(lines_of(folder))
    wait_until(process, lambda: len(lines_of(folder)) > seen, output)
    process.kill()
    process.join()
    first = lines_of(folder)
    assert len(first) < 24

    process = start_extraction(long_config, tmp_path / "ray", output, *options)
    wait_until(process, lambda: len(lines_of(folder)) > len(first), output)
    (node,) = nodes.worker_nodes
    nodes.remove_node(node, allow_graceful=False)
    process.join(timeout=PATIENCE_S)
    assert process.exitcode == 0, output.read_text()
    # What was committed stays, and is not computed again; each unit is in the log once.
    lines = lines_of(folder)
    assert lines[: len(first)] == first
    assert sorted(json.loads(line)["unit"] for line in lines) == list(range(len(lines)))
    assert sorted(lines) == sorted(lines_of(whole))
    assert shard_bytes(folder) == shard_bytes(whole)
    assert verify_cache(folder).verdict == "whole"


def refuse() -> None:
    raise BadImageError("a.jpg: is no image", file="a.jpg", reason="is no image")


def test_an_error_of_the_users_leaves_a_worker_as_it_was_raised(nodes: Any) -> None:
    ray = pytest.importorskip("ray")
    stop = signal.getsignal(signal.SIGTERM)
    with connected(nodes.address) as cluster:
        assert cluster.num_cpus >= 1
        assert signal.getsignal(signal.SIGTERM) is stop
        with pytest.raises(BadImageError, match=r"^a.jpg: is no image$") as caught:
            result(ray.remote(refuse).remote())
    assert (caught.value.file, caught.value.reason) == ("a.jpg", "is no image")
    assert not ray.is_initialized()


CPUS = ClusterNode(num_cpus=12, num_gpus=0)
GPUS = ClusterNode(num_cpus=64, num_gpus=8)


@pytest.mark.parametrize(
    ("nodes", "device", "cores", "expected"),
    [
        ([GPUS, GPUS, CPUS], "auto", None, Workers(number=16, num_cores=8, num_gpus=1)),
        ([GPUS], "cuda", 16, Workers(number=4, num_cores=16, num_gpus=1)),
        ([GPUS, CPUS], "cpu", None, Workers(number=6, num_cores=12, num_gpus=0)),
        ([CPUS], "auto", 5, Workers(number=2, num_cores=5, num_gpus=0)),
        ([ClusterNode(num_cpus=64, num_gpus=0)], "auto", None,
         Workers(number=4, num_cores=16, num_gpus=0)),
    ],
)  # fmt: skip
def test_a_worker_has_a_gpu_where_there_are_some_and_cores_of_one_node(
    nodes: list[ClusterNode], device: str, cores: int | None, expected: Workers
) -> None:
    assert workers_of(Cluster(tuple(nodes)), device, cores) == expected


@pytest.mark.parametrize(
    ("device", "cores", "message"),
    [
        ("cuda", None, r"^--ray: --device cuda: no node of this cluster has a GPU: use cpu$"),
        ("cuda:1", None, r"^--ray: --device cuda:1: which GPU it is Ray chooses: use cuda$"),
        ("cpu", 13, r"^--ray-cpus 13: no node of the cluster has as many, the largest has 12:"),
    ],
)
def test_what_a_cluster_does_not_have_is_told(device: str, cores: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        workers_of(Cluster((CPUS,)), device, cores)


def test_a_unit_that_came_out_otherwise_is_dealt_when_who_has_it_locked_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else who gets it waits for the lock, and who has the lock to be asked for more."""
    monkeypatch.setattr("extract.cluster.on_ray.result", lambda value: value)
    units = [Unit(index=n, bucket=0, first_row=n, num_rows=1) for n in range(2)]
    dealer, member = Dealer([], num_workers=2), _Member(None, dict(enumerate(units)))
    crew = _Crew([], None, dealer)
    yielded = iter([
        UnitDone(unit=0, commit=None, num_bytes=0, differing=frozenset({3})),  # type: ignore[arg-type]
        UnitDone(unit=1, commit=None, num_bytes=7, differing=frozenset()),  # type: ignore[arg-type]
    ])  # fmt: skip
    assert list(crew._answered(yielded, member, _Writer())) == []  # type: ignore[arg-type]
    assert list(crew._answered(yielded, member, _Writer())) == [(units[1], 7)]  # type: ignore[arg-type]
    assert dealer.deal() == []
    assert list(crew._answered(yielded, member, _Writer())) == []  # type: ignore[arg-type]
    assert dealer.deal() == [units[0]]


class _Writer:
    def take_back(self, unit: Unit, done: UnitDone) -> bool:
        return not done.differing
