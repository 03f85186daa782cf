"""Commits count if they are of the plan's units; what another log says is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import CacheError
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import ChannelStatistics, statistics_path
from data.cache.commit_log import FILE_NAME, Commit, _sealed, fitting, read_commits
from data.cache.units_due import levels_due
from data.reading.level_reader import LevelReader
from tests.support.extraction import TinyCache

CHANGES: dict[str, Callable[[Commit], Commit]] = {
    "a level too few": lambda commit: replace(
        commit, checksums={k: v for k, v in commit.checksums.items() if k}
    ),
    "a level too many": lambda commit: replace(commit, checksums={**commit.checksums, 9: ["0"]}),
    "an image too many": lambda commit: replace(
        commit, checksums={k: [*v, "0"] for k, v in commit.checksums.items()}
    ),
    "an image too few": lambda commit: replace(
        commit, checksums={k: v[1:] for k, v in commit.checksums.items()}
    ),
    "statistics of fewer channels": lambda commit: replace(
        commit, statistics={k: narrowed(v) for k, v in commit.statistics.items()}
    ),
}


def narrowed(statistics: ChannelStatistics) -> ChannelStatistics:
    """Statistics of one channel less."""
    fields = ("mean", "m2", "minimum", "maximum")
    return replace(statistics, **{name: getattr(statistics, name)[1:] for name in fields})


@pytest.mark.parametrize("case", CHANGES)
def test_commit_of_another_plan_does_not_count_and_its_unit_is_due(
    zarr_cache: TinyCache, case: str
) -> None:
    manifest, commits = zarr_cache.manifest, read_commits(zarr_cache.folder)
    assert fitting(commits, manifest) == commits
    there = fitting({**commits, 2: CHANGES[case](commits[2])}, manifest)
    assert there == {unit: commit for unit, commit in commits.items() if unit != 2}
    due = levels_due(zarr_cache.folder, manifest, there)
    assert [unit for unit, levels in due.items() if levels] == [2]


def test_commit_of_a_unit_that_the_plan_lacks_does_not_count(zarr_cache: TinyCache) -> None:
    commits = dict(CacheFolder(zarr_cache.folder).commits)
    assert fitting({**commits, 99: commits[0]}, zarr_cache.manifest) == commits


def test_checksum_that_is_no_number_is_a_damaged_commit(zarr_cache: TinyCache) -> None:
    raw = json.loads(read_commits(zarr_cache.folder)[0].to_line())
    raw["xxh3"]["0"][0] = "no number"
    with pytest.raises(ValueError, match="no number"):
        Commit.from_json(raw)


def test_unit_that_is_no_number_of_one_is_a_damaged_commit(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    raw = json.loads(read_commits(zarr_cache.folder)[0].to_line())
    del raw["line"]
    lines = [_sealed(raw | {"unit": unit}) for unit in (float("inf"), None, [], 0)]
    (tmp_path / FILE_NAME).write_bytes(b"".join(lines))
    assert read_commits(tmp_path).keys() == {0}


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 0}, {"count": float("inf")}, {"count": 2**62}, {"mean": np.zeros(3)},
        {"m2": np.full(256, np.nan)}, {"m2": np.full(256, -1.0)}, {"minimum": np.full(256, 1e30)},
    ],
    ids=str,
)  # fmt: skip
def test_statistics_that_cannot_be_are_damaged(
    zarr_cache: TinyCache, changes: dict[str, Any]
) -> None:
    there = ChannelStatistics.from_json(statistics_path(zarr_cache.folder, 0).read_text())
    with pytest.raises(CacheError, match="the statistics are damaged"):
        ChannelStatistics.from_json(replace(there, **changes).to_json())


def test_statistics_of_other_channels_than_the_level_s_are_refused(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    for path in zarr_cache.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    path = statistics_path(tmp_path, 0)
    whole = ChannelStatistics.from_json(path.read_text())
    path.unlink()
    path.write_text(narrowed(whole).to_json())
    with pytest.raises(CacheError, match="of 255 channels, not 256"):
        LevelReader(tmp_path, 0)
