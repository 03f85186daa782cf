"""Fixtures of all tests: one computing thread, and caches that the real extraction wrote once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from tests.support.extraction import TinyCache, must_extract, write_config
from tests.support.tiny_study import save_detector

# How long an example takes says nothing on a machine that is shared.
settings.register_profile(
    "no_deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("no_deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


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


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes of four sizes in three buckets; shards so small that each bucket has several."""
    folder = tmp_path_factory.mktemp("tiny")
    return write_config(folder / "tiny.yaml", detector=save_detector(folder / "detector.pth"))


@pytest.fixture(scope="session", params=["zarr", "hdf5"])
def tiny_cache(
    request: pytest.FixtureRequest, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyCache:
    """The train split's float16 cache, once per container. Read only: damage copies of it."""
    features = tmp_path_factory.mktemp(f"features_{request.param}")
    folder = must_extract(tiny_config, features, "--container", request.param)
    return TinyCache(folder=folder, container=request.param, config=tiny_config)


@pytest.fixture(scope="session")
def zarr_cache(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyCache:
    """The train split's float16 cache in the usual container, for what does not depend on it."""
    folder = must_extract(tiny_config, tmp_path_factory.mktemp("features"))
    return TinyCache(folder=folder, container="zarr", config=tiny_config)


@pytest.fixture(scope="session", params=["zarr", "hdf5"])
def byte_cache(
    request: pytest.FixtureRequest, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyCache:
    """The train split's cache in 8 bits, its codes of two of the images. Read only."""
    features = tmp_path_factory.mktemp(f"bytes_{request.param}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("extract.features.channel_codes._MOST_IMAGES", 2)
        options = ("--container", request.param, "--dtype", "uint8")
        folder = must_extract(tiny_config, features, *options)
    return TinyCache(folder=folder, container=request.param, config=tiny_config)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a report's pictures blank: drawing takes four fifths of a tiny analysis."""
    blank = BytesIO()
    Image.new("RGB", (1, 1)).save(blank, format="png")
    monkeypatch.setattr("analyze.plots.figures._png", lambda *_: blank.getvalue())
    monkeypatch.setattr("analyze.plots.figures._svg", lambda *_: b"<svg/>")
    monkeypatch.setattr("analyze.analysis.level_pictures", lambda *_: ())
