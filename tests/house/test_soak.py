"""`make soak` in small: a sample of each job, and that what grows is seen."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path
from typing import Any

import pytest

from tests.soak.growth import Watch, memory_growth_bytes, what_grows
from tests.soak.jobs import JOBS, analyse_again
from tests.support.tiny_study import TinyStudy


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else leaves anything there meanwhile."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look for garbage takes half a second beside all that tests import."""
    monkeypatch.setattr("tests.soak.growth.gc.collect", lambda: None)


@pytest.mark.parametrize(("name", "number", "every"), [("train", 60, 15), ("extract", 24, 6)])
def test_a_sample_of_long_work_leaves_nothing_behind(
    study: TinyStudy, folder: Path, name: str, number: int, every: int
) -> None:
    watch = Watch(folder, every=every)
    JOBS[name][0](study, folder, number, watch.tick)
    assert sum(1 for _ in watch.readings) >= number // every - 1
    assert what_grows(watch.readings) == []


def test_a_sample_of_analyses_leaves_nothing_behind(study: TinyStudy, folder: Path) -> None:
    watch = Watch(folder)
    analyse_again(study, folder, 3, watch.tick, draw_every=0)
    assert what_grows(watch.readings) == []


def leak_memory(held: list[Any], _: Path) -> None:
    # Of pages of its own: what was freed before would serve a small piece.
    held.append(mmap(-1, 2**22, flags=MAP_PRIVATE | MAP_ANONYMOUS))
    held[-1].write(b"x" * 2**22)


def leak_handle(held: list[Any], folder: Path) -> None:
    held.append((folder / "file").open("ab"))


def leak_thread(held: list[Any], _: Path) -> None:
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    held.append((ends, thread))


def leave_file(_: list[Any], folder: Path) -> None:
    Path(tempfile.mkdtemp(dir=folder, prefix=".decoded-"))


@pytest.mark.parametrize(
    ("leak", "told"),
    [
        (leak_memory, "memory: "),
        (leak_handle, "num_handles: "),
        (leak_thread, "num_threads: "),
        (leave_file, "num_temporary: "),
    ],
)
def test_what_grows_is_told(
    folder: Path, not_collected: None, leak: Callable[[list[Any], Path], None], told: str
) -> None:
    watch, held = Watch(folder), []  # type: ignore[var-annotated]
    for _ in range(12):
        leak(held, folder)
        watch.tick()
    try:
        (line,) = what_grows(watch.readings)
        assert line.startswith(told)
    finally:
        for each in held:
            if leak is leak_thread:
                each[0].set()
                each[1].join()
            else:
                each.close()


def test_memory_that_rises_once_and_falls_is_no_growth(folder: Path, not_collected: None) -> None:
    watch = Watch(folder)
    for number in range(12):
        held = b"x" * (40 * 2**20 if number == 7 else 1)
        watch.tick()
        del held
    assert abs(memory_growth_bytes(watch.readings)) < 2**23
    assert what_grows(watch.readings) == []
