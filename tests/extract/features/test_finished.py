"""What is finished is known without the detector; in doubt it is not, and the detector is asked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from configs.config_files import load_config
from configs.schema.config import Config
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.images.image_sets import load_images
from extract.features.finished import finished_without_detector
from tests.support.extraction import TinyCache, fingerprints, must_extract


def settings_of(cache: TinyCache, *overrides: str) -> Config:
    return load_config(str(cache.config), overrides)


def is_finished(cache: TinyCache, folder: Path, *overrides: str) -> bool:
    config = settings_of(cache, *overrides)
    return finished_without_detector(folder, load_images(config.data, "train"), config)


@pytest.fixture
def copied(zarr_cache: TinyCache, tmp_path: Path) -> Path:
    shutil.copytree(zarr_cache.folder, tmp_path / "train")
    return tmp_path / "train"


def test_finished_split_is_told_and_stays_as_it_is(tiny_cache: TinyCache, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(tiny_cache.folder, folder)
    assert is_finished(tiny_cache, folder, f"cache.container={tiny_cache.container}")
    assert fingerprints(folder) == fingerprints(tiny_cache.folder)


def test_mended_boxes_are_written_to_a_finished_split(zarr_cache: TinyCache, copied: Path) -> None:
    config = settings_of(zarr_cache)
    images = load_images(config.data, "train")
    record = replace(images.records[0], boxes_xyxy=images.records[0].boxes_xyxy + 1)
    mended = replace(images, records=(record, *images.records[1:]))
    assert finished_without_detector(copied, mended, config)
    written = read_annotations(copied / ANNOTATIONS_NAME, "train").records[0]
    assert (written.boxes_xyxy == record.boxes_xyxy).all()


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.name=other",),
        ("detector.min_size=90",),
        ("detector.max_size=120",),
        ("detector.min_size=null",),
        ("detector.resize=[96,128]",),
        ("detector.builder=fasterrcnn_mobilenet_v3_large_fpn",),
        ("detector.checkpoint=builtin:scenes",),
        ("detector.checkpoint=null", "detector.weights=random"),
        ("cache.dtype=float32",),
        ("cache.container=hdf5",),
        ("cache.crop=4",),
        ("cache.levels=[0,1]",),
        ("cache.shard_megabytes=0.2",),
        ("data.splits.train.num_scenes=7",),
        ("data.splits.train.scene_seed=24",),
        ("data.splits.train.augmentation={flip: true}",),
    ],
)
def test_cache_of_other_settings_is_not_finished(
    zarr_cache: TinyCache, overrides: tuple[str, ...]
) -> None:
    before = fingerprints(zarr_cache.folder)
    assert not is_finished(zarr_cache, zarr_cache.folder, *overrides)
    assert fingerprints(zarr_cache.folder) == before


def append_space(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [Path.unlink, halve, append_space])
@pytest.mark.parametrize("file", ["manifest.json", "level_3.zarr/zarr.json"])
def test_changed_description_is_not_finished(
    zarr_cache: TinyCache, copied: Path, file: str, damage: Callable[[Path], None]
) -> None:
    damage(copied / file)
    assert not is_finished(zarr_cache, copied)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("commits.jsonl", Path.unlink),
        ("commits.jsonl", halve),
        ("statistics_level_2.json", Path.unlink),
        ("level_1.zarr/*/c.0*", Path.unlink),
        ("level_1.zarr/*/c.0*", halve),
    ],
)
def test_cache_that_lacks_something_is_not_finished(
    zarr_cache: TinyCache, copied: Path, file: str, damage: Callable[[Path], None]
) -> None:
    damage(next(copied.glob(file)))
    assert not is_finished(zarr_cache, copied)


def test_no_folder_is_not_finished_and_none_is_made(zarr_cache: TinyCache, tmp_path: Path) -> None:
    assert not is_finished(zarr_cache, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_stored_levels_are_all_only_if_the_last_is_among_them(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    folder = must_extract(zarr_cache.config, tmp_path, "--levels", "0,1")
    assert is_finished(zarr_cache, folder, "cache.levels=[1,0]")
    assert not is_finished(zarr_cache, folder)


def test_crops_are_known_to_be_finished(zarr_cache: TinyCache, tmp_path: Path) -> None:
    folder = must_extract(zarr_cache.config, tmp_path, "--crop", "4")
    assert is_finished(zarr_cache, folder, "cache.crop=4")


def test_fewer_images_are_not_all(zarr_cache: TinyCache, tmp_path: Path) -> None:
    folder = must_extract(zarr_cache.config, tmp_path, "--limit", "3")
    assert not is_finished(zarr_cache, folder)
