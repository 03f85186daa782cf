"""A cache that is open tells of one moment, and says when that has passed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data.cache.cache_folder import CacheFolder
from data.cache.commit_log import FILE_NAME as LOG_NAME
from data.cache.manifest import FILE_NAME
from tests.support.extraction import TinyCache


@pytest.fixture
def copied(zarr_cache: TinyCache, tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    for name in (FILE_NAME, LOG_NAME):
        shutil.copy(zarr_cache.folder / name, tmp_path / "cache")
    return tmp_path / "cache"


def test_cache_that_nobody_wrote_to_stays_open(copied: Path) -> None:
    cache = CacheFolder(copied)
    assert cache.manifest is cache.up_to_date().manifest


@pytest.mark.parametrize("name", [FILE_NAME, LOG_NAME])
def test_cache_that_was_written_to_is_opened_anew_and_the_old_view_stays(
    copied: Path, name: str
) -> None:
    cache = CacheFolder(copied)
    before = cache.manifest
    (copied / "new").write_bytes((copied / name).read_bytes())
    (copied / "new").replace(copied / name)
    assert cache.manifest is before
    assert cache.up_to_date().manifest is not before


def test_cache_that_is_gone_is_opened_anew(copied: Path) -> None:
    cache = CacheFolder(copied)
    (copied / FILE_NAME).unlink()
    assert cache.up_to_date() is not cache
