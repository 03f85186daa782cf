"""A cache is replaced as a whole, and nothing but the cache."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import CacheError
from data.cache.annotations import read_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.commit_log import CommitLog
from data.cache.containers import STORES
from data.writing.settle import settle_cache
from tests.support.extraction import TinyCache, fingerprints


def overwrite(cache: TinyCache, folder: Path) -> CacheFolder:
    """Settle another plan in the folder of a cache, as `--overwrite` does."""
    images = read_annotations(cache.folder / "annotations.json", "train")
    other = replace(cache.manifest, dtype="float32")
    with CommitLog(folder) as log:
        return settle_cache(folder, other, images, log, overwrite=True)


@pytest.fixture
def copied(tiny_cache: TinyCache, tmp_path: Path) -> TinyCache:
    """A cache that a test may replace."""
    folder = tmp_path / "train"
    shutil.copytree(tiny_cache.folder, folder)
    return TinyCache(folder=folder, container=tiny_cache.container, config=tiny_cache.config)


def level_folder(cache: TinyCache, level: int) -> Path:
    return STORES[cache.container].level_folder(cache.folder, level)


def test_replaced_cache_leaves_no_shard_and_no_file_of_somebody_else_goes(
    copied: TinyCache,
) -> None:
    (copied.folder / "notes.txt").write_text("mine")
    assert overwrite(copied, copied.folder).manifest.dtype == "float32"
    names = {path.name for path in copied.folder.iterdir()}
    assert names == {"annotations.json", "commits.jsonl", "manifest.json", "notes.txt"}


@pytest.mark.parametrize("target", ["full", "gone"])
def test_level_whose_folder_is_a_link_is_refused_before_anything_is_removed(
    copied: TinyCache, tmp_path: Path, target: str
) -> None:
    """It would stay, with the old shards in it; and it may be the level of another cache."""
    link, elsewhere = level_folder(copied, 2), tmp_path / "elsewhere"
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    if target == "gone":
        shutil.rmtree(elsewhere)
    before = fingerprints(copied.folder)
    with pytest.raises(CacheError) as caught:
        overwrite(copied, copied.folder)
    assert str(caught.value).startswith(f"{link}: is a link to {elsewhere}, which --overwrite does")
    assert fingerprints(copied.folder) == before


def test_level_that_is_to_lie_elsewhere_is_linked_to_an_empty_folder(
    copied: TinyCache, tmp_path: Path
) -> None:
    link, elsewhere = level_folder(copied, 2), tmp_path / "elsewhere"
    shutil.rmtree(link)
    elsewhere.mkdir()
    link.symlink_to(elsewhere)
    overwrite(copied, copied.folder)
    assert link.is_symlink()
    assert not level_folder(copied, 1).exists()


def test_level_that_cannot_be_removed_is_an_error_and_the_manifest_stays(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(shutil, "rmtree", busy)
    with pytest.raises(OSError, match="busy"):
        overwrite(copied, copied.folder)
    assert CacheFolder(copied.folder).manifest.dtype == "float16"
