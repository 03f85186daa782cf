"""compress-features and decompress-features read each checkpoint and each manifest once."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from analyze.streams.ensemble import DroppedLevel, Ensemble, ensemble_of_runs, write_ensemble
from data.cache.manifest import Manifest
from tests.support.coded_study import compress, decompress, make_run, must_compress
from tests.support.openings import of_name, openings
from tests.support.tiny_study import TinyStudy


@pytest.fixture(scope="module")
def runs(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run of each of the levels 0 to 2, and one that serves 3 and 4."""
    folder = tmp_path_factory.mktemp("checkpoints").resolve()
    special = [make_run(folder / f"fpn_level_{level}" / "run", study, level) for level in range(3)]
    return [*special, make_run(folder / "fpn_random_level_1" / "run", study, 3, 4)]


@dataclass(frozen=True)
class Compressed:
    """The split val compressed by these runs, and what was opened for it."""

    folder: Path
    opened: Counter[Path]


@pytest.fixture(scope="module")
def compressed(
    study: TinyStudy, runs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Compressed:
    out = tmp_path_factory.mktemp("streams") / "streams"
    with openings() as counted:
        must_compress(study, out, runs)
    return Compressed(folder=out, opened=counted)


def checkpoints_of(counted: Counter[Path]) -> dict[Path, int]:
    return of_name(counted, "best_model.pth")


def test_compressing_reads_each_checkpoint_and_the_manifest_once(
    study: TinyStudy, runs: list[Path], compressed: Compressed
) -> None:
    assert checkpoints_of(compressed.opened) == dict.fromkeys(runs, 1)
    assert of_name(compressed.opened, "manifest.json") == {study.val_cache.resolve(): 1}
    assert of_name(compressed.opened, "commits.jsonl") == {}


def test_an_ensemble_with_a_dropped_level_reads_the_training_manifest_once_too(
    study: TinyStudy, runs: list[Path], tmp_path: Path
) -> None:
    ways = ensemble_of_runs(runs, Manifest.load(study.val_cache).levels).levels
    path = tmp_path / "ensemble.yaml"
    write_ensemble(path, Ensemble({**ways, 1: DroppedLevel(), 2: DroppedLevel()}))
    with openings() as counted:
        assert compress(study, tmp_path / "streams", "--ensemble", path).exit_code == 0
    assert checkpoints_of(counted) == dict.fromkeys([runs[0], runs[3]], 1)
    assert of_name(counted, "manifest.json") == {
        study.val_cache.resolve(): 1, study.train_cache.resolve(): 1,
    }  # fmt: skip


def test_decompressing_reads_each_checkpoint_once(
    compressed: Compressed, runs: list[Path], tmp_path: Path
) -> None:
    with openings() as counted:
        assert decompress(compressed.folder, tmp_path / "decoded").exit_code == 0
    assert checkpoints_of(counted) == dict.fromkeys(runs, 1)


def test_looking_for_moved_runs_reads_no_checkpoint_twice(
    compressed: Compressed, runs: list[Path], tmp_path: Path
) -> None:
    far = shutil.copytree(compressed.folder, tmp_path / "far" / "streams")
    moved = [tmp_path.resolve() / "moved" / f"number_{number}" for number in range(4)]
    for run, folder in zip(runs, moved, strict=True):
        shutil.copytree(run, folder)
    with openings() as counted:
        done = decompress(far, tmp_path / "decoded", "--checkpoints", tmp_path / "moved")
    assert done.exit_code == 0, done.output
    assert checkpoints_of(counted) == dict.fromkeys(moved, 1)
