"""Killed at any moment, an extraction goes on; two at once share one. Real processes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from data.cache.commit_log import FILE_NAME as COMMITS_NAME
from data.cache.manifest import FILE_NAME
from tests.support.extraction import fingerprints, must_extract, write_config
from tests.support.extraction_process import start_extraction


@pytest.fixture(scope="module")
def long_config(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As tiny_config, but with enough scenes that there is time to kill it."""
    text = tiny_config.read_text(encoding="utf-8").replace("num_scenes: 8", "num_scenes: 16")
    return write_config(tmp_path_factory.mktemp("long") / "long.yaml", text)


@pytest.fixture(scope="module")
def uninterrupted(
    long_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, str]]:
    """Container -> fingerprints of all files of a cache whose extraction nobody disturbed."""
    root = tmp_path_factory.mktemp("uninterrupted")
    return {
        kind: fingerprints(must_extract(long_config, root / kind, "--container", kind))
        for kind in ("zarr", "hdf5")
    }


def wait_until(process: BaseProcess, path: Path, num_bytes: int) -> None:
    """Return when the file is that large, or the process has ended."""
    while process.is_alive() and not (path.is_file() and path.stat().st_size >= num_bytes):
        time.sleep(0.001)


NUM_KILLS = 4  # of each container, at other moments in each run of the tests
PLAN_LINE = b'{"plan":"%064x","line":"%016x"}\n' % (0, 0)


def committed(folder: Path) -> list[bytes]:
    """The whole lines of the log that are of units."""
    path = folder / COMMITS_NAME
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [line for line in lines if not line.startswith(b'{"plan":')]


@pytest.mark.parametrize("container", ["zarr", "hdf5"])
def test_cache_of_a_run_killed_again_and_again_is_byte_identical(
    long_config: Path,
    uninterrupted: dict[str, dict[str, str]],
    tmp_path: Path,
    container: str,
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the moments: {seed}")  # shown when the test fails
    rng = random.Random(seed)
    folder = tmp_path / "train"
    kills, survived = 0, []
    while kills < NUM_KILLS:
        before = committed(folder)
        process = start_extraction(
            long_config, tmp_path, tmp_path / "output", "--container", container
        )
        # From the first file on, or from the first new commit on: the start-up is no news.
        first = folder / (COMMITS_NAME if before or rng.random() < 0.7 else FILE_NAME)
        size = first.stat().st_size if first.is_file() else 0
        if first.name == COMMITS_NAME:
            size = max(size, len(PLAN_LINE))
        wait_until(process, first, size + 1)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        after = committed(folder)
        # What was committed stays, line for line, and is not computed again.
        assert after[: len(before)] == before
        assert len({json.loads(line)["unit"] for line in after}) == len(after)
        survived.append(len(after))
        if process.exitcode == 0:
            # It was faster than its killer: the rest of the kills are for a new cache.
            assert fingerprints(folder) == uninterrupted[container]
            shutil.rmtree(folder)
    process = start_extraction(long_config, tmp_path, tmp_path / "output", "--container", container)
    process.join(timeout=120)
    assert process.exitcode == 0, (tmp_path / "output").read_text()
    assert fingerprints(folder) == uninterrupted[container]
    assert not [path for path in folder.rglob("*") if path.suffix == ".part"]
    assert any(survived), "no kill came after a commit"


def test_two_extractions_at_once_write_one_cache(
    long_config: Path, uninterrupted: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    outputs = [tmp_path / "first", tmp_path / "second"]
    processes = [start_extraction(long_config, tmp_path, output) for output in outputs]
    for process in processes:
        process.join(timeout=120)
    told = [output.read_text() for output in outputs]
    assert [process.exitcode for process in processes] == [0, 0], told
    assert sorted("train: 16 images" in text for text in told) == [False, True], told
    assert sorted("train: all 16 images are in" in text for text in told) == [False, True], told
    assert fingerprints(tmp_path / "train") == uninterrupted["zarr"]
