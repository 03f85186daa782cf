"""A command reads each cache's manifest and commit log once, and hands on what it read."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from click.testing import CliRunner

from tests.support.extraction import TinyCache, must_extract
from tests.support.openings import of_name, openings
from tests.support.tiny_study import TinyStudy
from train.cli import train_level


def manifests_and_logs(counted: Counter[Path]) -> dict[str, int]:
    """How often manifests and commit logs were read: split/file -> number."""
    return {
        f"{folder.name}/{name}": number
        for name in ("manifest.json", "commits.jsonl")
        for folder, number in of_name(counted, name).items()
    }


def test_extraction_of_a_finished_split_reads_its_manifest_and_its_log_once(
    zarr_cache: TinyCache,
) -> None:
    with openings() as opened:
        must_extract(zarr_cache.config, zarr_cache.folder.parent)
    assert manifests_and_logs(opened) == {"train/manifest.json": 1, "train/commits.jsonl": 1}


def test_extraction_that_begins_reads_again_only_what_it_wrote(
    tiny_config: Path, tmp_path: Path
) -> None:
    with openings() as opened:
        must_extract(tiny_config, tmp_path, "--limit", "2")
    # Before its plan was written and after it; the log for all statistics, too.
    assert manifests_and_logs(opened) == {"train/manifest.json": 2, "train/commits.jsonl": 3}


def test_verification_reads_the_manifest_once_and_the_log_twice(zarr_cache: TinyCache) -> None:
    with openings() as opened:
        must_extract(zarr_cache.config, zarr_cache.folder.parent, "--verify")
    # The log also for what tells whether somebody commits while the bytes are read.
    assert manifests_and_logs(opened) == {"train/manifest.json": 1, "train/commits.jsonl": 2}


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
    assert manifests_and_logs(opened) == {"train/manifest.json": 1, "val/manifest.json": 1}


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
