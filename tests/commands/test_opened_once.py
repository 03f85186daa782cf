"""A command reads each cache's manifest and commit log once, and hands on what it read."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.extraction import TinyCache, must_extract
from tests.support.tiny_study import TinyStudy, study
from train.cli import train_level

__all__ = ["study"]

_WATCHING: list[Counter[str]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | Path):
        path = Path(arguments[0])
        if path.name in ("manifest.json", "commits.jsonl"):
            for opened in _WATCHING:
                opened[f"{path.parent.name}/{path.name}"] += 1


@pytest.fixture(scope="module", autouse=True)
def _heard() -> None:
    sys.addaudithook(_hear)  # it stays as long as the process does


@contextmanager
def openings() -> Iterator[Counter[str]]:
    """Count how often manifests and commit logs are opened meanwhile: split/file -> number."""
    opened: Counter[str] = Counter()
    _WATCHING.append(opened)
    yield opened
    _WATCHING.remove(opened)


def test_extraction_of_a_finished_split_reads_its_manifest_and_its_log_once(
    zarr_cache: TinyCache,
) -> None:
    with openings() as opened:
        must_extract(zarr_cache.config, zarr_cache.folder.parent)
    # The log is opened once more to be locked.
    assert opened == {"train/manifest.json": 1, "train/commits.jsonl": 2}


def test_extraction_that_begins_reads_again_only_what_it_wrote(
    tiny_config: Path, tmp_path: Path
) -> None:
    with openings() as opened:
        must_extract(tiny_config, tmp_path, "--limit", "2")
    # Before its plan was written and after it; the log to be locked, and for all statistics, too.
    assert opened == {"train/manifest.json": 2, "train/commits.jsonl": 4}


def test_verification_reads_the_manifest_and_the_log_once(zarr_cache: TinyCache) -> None:
    with openings() as opened:
        must_extract(zarr_cache.config, zarr_cache.folder.parent, "--verify")
    assert opened == {"train/manifest.json": 1, "train/commits.jsonl": 1}


def test_training_of_all_levels_reads_the_manifest_of_either_split_once(
    study: TinyStudy, tmp_path: Path
) -> None:
    arguments = (
        f"--config {study.config_file} --features {study.root} --out {tmp_path} --level all "
        "--epochs 1 --device cpu --log-level warning"
    )
    with openings() as opened:
        result = CliRunner().invoke(train_level, arguments.split())
    assert result.exit_code == 0, result.output
    assert opened == {"train/manifest.json": 1, "val/manifest.json": 1}


def test_finished_split_is_told_without_torch(zarr_cache: TinyCache) -> None:
    arguments = ["--config", str(zarr_cache.config), "--features", str(zarr_cache.folder.parent)]
    script = (
        "import sys; from extract.cli import extract_features; "
        f"extract_features({[*arguments, '--split', 'train']!r}, standalone_mode=False); "
        "print(*{'torch', 'torchvision', 'numba', 'matplotlib'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    expected = f"train: all 8 images are in {zarr_cache.folder} already\n\n"
    assert (found.returncode, found.stdout) == (0, expected), found.stderr
