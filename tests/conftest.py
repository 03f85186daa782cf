"""Fixtures of all tests: one computing thread, and caches that the real extraction wrote once."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, settings
from PIL import Image

from data.system.ray_cluster import connected
from extract.dry_run.timing import Speed
from tests.support.extraction import TinyCache, must_extract, write_config
from tests.support.forked import PRELOADED
from tests.support.object_server import ObjectServer
from tests.support.ray_nodes import ray_nodes
from tests.support.remembered_detectors import remember_detectors
from tests.support.remembered_scenes import remember_scenes
from tests.support.tiny_study import TinyStudy, make_study, save_detector
from train.cli import train_level

# How long an example takes says nothing on a machine that is shared.
settings.register_profile(
    "no_deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("no_deadline")


def pytest_collection() -> None:
    """Look for no garbage among what is imported: almost all of it stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what is there to the end out of every later search for garbage: it took a fifth."""
    gc.freeze()
    gc.enable()


# Of tests/: whole commands, processes that train together, and what has a cluster of Ray's.
_LONG = ("analyze", "cluster", "commands", "machine", "study", "system", "verification")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the rooms whose files take longest; skip what needs a GPU where there is none.

    A file stays with one process: begun last, a long one would leave the other cores idle.
    """
    items.sort(key=lambda item: item.path.parent.name not in _LONG)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


# Their tasks share a cluster, and its workers, each of which has torch to import: one process runs
# them all.
_ON_RAY = ("test_analysis_on_ray", "test_study_on_ray", "test_ray_tasks")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute files; those that share a cluster are as one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "on Ray" if Path(file).stem in _ON_RAY else file

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def _ray_nodes() -> Iterator[tuple[str, ExitStack]]:
    pytest.importorskip("ray", reason="needs ray")
    with ray_nodes(2, num_cpus=2, num_gpus=1) as address, ExitStack() as stack:
        yield address, stack


@pytest.fixture
def ray_address(_ray_nodes: tuple[str, ExitStack]) -> str:
    """The address of two nodes, of two cores and as if with a GPU each; this process has joined."""
    import ray

    address, stack = _ray_nodes
    if not ray.is_initialized():  # stays so for the tests to come, unless one needs another cluster
        stack.enter_context(connected(address))
    return address


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A job that a shell started in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _disk_is_not_waited_for() -> Iterator[None]:
    """What is synced and what is not differs where the power fails, which no test can make.

    Processes that tests start, and kill, do wait for the disk.
    """

    def as_if_synced(handle: int | IO[bytes]) -> None:
        os.fstat(handle if isinstance(handle, int) else handle.fileno())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", as_if_synced)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_computing_thread() -> None:
    """Tiny maps are faster so, and the machine may be shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _scenes_are_rendered_once() -> Iterator[None]:
    """Half of a tiny extraction goes into drawing the same scenes again."""
    with pytest.MonkeyPatch.context() as patched:
        remember_scenes(patched)
        yield


@pytest.fixture(scope="session", autouse=True)
def _detectors_are_loaded_once() -> Iterator[None]:
    """Most of what is left of one goes into reading and hashing weights."""
    with pytest.MonkeyPatch.context() as patched:
        remember_detectors(patched)
        yield


@pytest.fixture(scope="session", autouse=True)
def _processes_of_studies_are_forks_of_our_server() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.study.study.PRELOADED", PRELOADED)
        yield


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Caches of the splits train (6 scenes) and val (3), in five levels. Read only: copy them."""
    return make_study(tmp_path_factory.mktemp("tiny_study"))


@pytest.fixture(scope="session")
def checkpoints(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all five levels at lambda 0.001, and of level 4 at 0.01 as well. Read only."""
    out = tmp_path_factory.mktemp("runs")
    common = ["--config", str(study.config_file), "--features", str(study.root), "--out", str(out)]
    for arguments in (["--level", "all"], ["--level", "4", "--lambda", "0.01"]):
        result = CliRunner().invoke(train_level, [*common, *arguments])
        assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes of four sizes in three buckets; shards so small that each bucket has several."""
    folder = tmp_path_factory.mktemp("tiny")
    return write_config(folder / "tiny.yaml", detector=save_detector(folder / "detector.pth"))


def _extracted(
    config: Path, factory: pytest.TempPathFactory, container: str, *options: str
) -> TinyCache:
    features = factory.mktemp("features")
    folder = must_extract(config, features, "--container", container, *options)
    return TinyCache(folder=folder, container=container, config=config)


@pytest.fixture(scope="session")
def zarr_cache(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyCache:
    """The train split's float16 cache in the usual container, for what does not depend on it."""
    return _extracted(tiny_config, tmp_path_factory, "zarr")


@pytest.fixture(scope="session")
def hdf5_cache(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyCache:
    """The same cache in the other container."""
    return _extracted(tiny_config, tmp_path_factory, "hdf5")


@pytest.fixture(scope="session", params=["zarr", "hdf5"])
def tiny_cache(request: pytest.FixtureRequest) -> TinyCache:
    """The train split's float16 cache, in each container. Read only: damage copies of it."""
    # Made here, a cache would be made anew whenever the container changes.
    cache: TinyCache = request.getfixturevalue(f"{request.param}_cache")
    return cache


def _of_two_images(config: Path, factory: pytest.TempPathFactory, container: str) -> TinyCache:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("extract.features.channel_codes._MOST_IMAGES", 2)
        return _extracted(config, factory, container, "--dtype", "uint8")


@pytest.fixture(scope="session")
def zarr_byte_cache(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyCache:
    """The train split's cache in 8 bits, its codes of two of the images. Read only."""
    return _of_two_images(tiny_config, tmp_path_factory, "zarr")


@pytest.fixture(scope="session")
def hdf5_byte_cache(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyCache:
    """The same cache in the other container."""
    return _of_two_images(tiny_config, tmp_path_factory, "hdf5")


@pytest.fixture(scope="session", params=["zarr", "hdf5"])
def byte_cache(request: pytest.FixtureRequest) -> TinyCache:
    """The train split's cache in 8 bits, in each container. Read only."""
    cache: TinyCache = request.getfixturevalue(f"{request.param}_byte_cache")
    return cache


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a report's pictures blank: drawing takes four fifths of a tiny analysis."""
    blank = BytesIO()
    Image.new("RGB", (1, 1)).save(blank, format="png")
    monkeypatch.setattr("analyze.plots.figures._png", lambda *_: blank.getvalue())
    monkeypatch.setattr("analyze.plots.figures._svg", lambda *_: b"<svg/>")
    monkeypatch.setattr("analyze.analysis.level_pictures", lambda *_: ())


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the extraction that a dry run times: it takes most of it."""
    speed = Speed(images_per_s=1.0, write_bytes_per_s=1.0)
    monkeypatch.setattr("extract.dry_run.estimate.measure_speed", lambda *_, **__: speed)


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """A server of objects that speaks S3, on loopback; what it holds is in memory."""
    pytest.importorskip("obstore", reason="needs the extra [remote]")
    pytest.importorskip("moto.server", reason="needs moto[server]")
    with ObjectServer.started() as server:
        yield server


@pytest.fixture
def bucket_url(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket of the test's own, which the environment leads to, with credentials."""
    for name, value in object_server.environment().items():
        monkeypatch.setenv(name, value)
    # What a test of ours takes from the store comes at once, or never.
    monkeypatch.setattr("data.places.object_store.RETRY_TIME_S", 5.0)
    return object_server.new_bucket()
