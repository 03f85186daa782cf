"""cache.crop: what is stored is a slice of the whole map, at a place that anyone can find again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from analyze.cli import analyze_levels
from data.cache.manifest import Manifest
from data.cache.plan import stored_corner
from data.reading.level_reader import LevelReader
from tests.support.extraction import (
    TinyCache,
    error_of,
    must_extract,
    run_extract,
    stored_values,
)
from tests.support.tiny_study import TinyStudy, extract_tiny
from train.cli import train_level
from train.runs.run_folder import find_runs

CROP = 10  # levels 0 and 1 of the tiny scenes are larger in both directions, levels 2 to 4 smaller
IDS = st.integers(min_value=-(2**63), max_value=2**63 - 1)
LEVELS = st.integers(min_value=0, max_value=9)
SIDES = st.integers(min_value=1, max_value=400)


@pytest.fixture(scope="module")
def cropped_cache(
    tiny_cache: TinyCache, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TinyCache, TinyCache]:
    """The tiny train cache whole, and stored as crops in the same container."""
    features = tmp_path_factory.mktemp(f"cropped_{tiny_cache.container}")
    options = ("--container", tiny_cache.container, "--crop", str(CROP))
    folder = must_extract(tiny_cache.config, features, *options)
    cropped = TinyCache(folder=folder, container=tiny_cache.container, config=tiny_cache.config)
    return tiny_cache, cropped


def cropped_study(study: TinyStudy, root: Path, *splits: str) -> Path:
    """The study's caches with these splits stored as crops of 10 positions."""
    cache = study.config.cache.model_copy(update={"crop": CROP})
    shutil.copytree(study.root, root)
    for split in splits:
        shutil.rmtree(root / split)
    extract_tiny(root, study.config.model_copy(update={"cache": cache}), splits)
    return root


@pytest.mark.parametrize("level", range(5))
def test_stored_crop_is_the_slice_of_the_whole_map_at_the_documented_corner(
    cropped_cache: tuple[TinyCache, TinyCache], level: int
) -> None:
    whole, cropped = cropped_cache
    corners = set()
    with LevelReader(whole.folder, level) as maps, LevelReader(cropped.folder, level) as crops:
        for index, sample in enumerate(crops.manifest.samples):
            full = maps.sample(index)
            height, width = min(full.shape[0], CROP), min(full.shape[1], CROP)
            top, left = stored_corner(
                image_id=sample.image_id,
                level=level,
                map_hw=full.shape[:2],
                crop_hw=(height, width),
            )
            corners.add((top, left))
            expected = full[top : top + height, left : left + width]
            assert crops.shape(index) == expected.shape
            np.testing.assert_array_equal(crops.sample(index), expected)
    assert len(corners) > 4 if level < 2 else corners == {(0, 0)}


def test_map_smaller_than_the_crop_is_stored_whole(
    cropped_cache: tuple[TinyCache, TinyCache],
) -> None:
    whole, cropped = cropped_cache
    for bucket, uncut in zip(cropped.manifest.buckets, whole.manifest.buckets, strict=True):
        for level in range(5):
            shape = uncut.level_shapes[level]
            assert bucket.level_shapes[level] == (min(shape[0], CROP), min(shape[1], CROP))
        assert bucket.level_shapes[2] == uncut.level_shapes[2]


@pytest.mark.parametrize("level", [0, 3])
def test_statistics_of_a_cropped_cache_are_those_of_the_stored_values(
    cropped_cache: tuple[TinyCache, TinyCache], level: int
) -> None:
    folder = cropped_cache[1].folder
    values = stored_values(folder, level)
    with LevelReader(folder, level) as reader:
        assert reader.statistics.count == len(values)
        np.testing.assert_allclose(reader.statistics.mean, values.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(reader.statistics.variance, values.var(axis=0), rtol=1e-4)
        np.testing.assert_array_equal(reader.statistics.maximum, values.max(axis=0))


def test_cropped_manifest_names_the_crop_and_derives_no_level_from_another(
    cropped_cache: tuple[TinyCache, TinyCache],
) -> None:
    whole, cropped = (cache.manifest for cache in cropped_cache)
    assert (whole.crop, cropped.crop) == (None, CROP)
    assert whole.levels[4].derived_from == 3
    assert {level.derived_from for level in cropped.levels} == {None}
    assert cropped.fingerprint != whole.fingerprint


def test_whole_cache_is_refused_as_stale_for_an_extraction_of_crops(zarr_cache: TinyCache) -> None:
    features = zarr_cache.folder.parent
    error = error_of(run_extract(zarr_cache.config, features, "--crop", "10"))
    assert "holds a cache of another plan (crop: None there, 10 now)" in error


def test_cache_whose_manifest_names_no_crop_holds_whole_maps(zarr_cache: TinyCache) -> None:
    raw = json.loads(zarr_cache.manifest.to_json())
    assert raw.pop("crop") is None
    assert Manifest.from_json(raw) == zarr_cache.manifest


@given(image_id=IDS, level=LEVELS, height=SIDES, width=SIDES, crop=SIDES)
def test_crop_lies_within_the_map(
    image_id: int, level: int, height: int, width: int, crop: int
) -> None:
    stored = (min(height, crop), min(width, crop))
    top, left = stored_corner(
        image_id=image_id, level=level, map_hw=(height, width), crop_hw=stored
    )
    assert 0 <= top <= height - stored[0]
    assert 0 <= left <= width - stored[1]


@given(image_id=IDS, level=LEVELS, side=st.integers(min_value=2, max_value=400), crop=SIDES)
def test_corner_in_maps_of_any_size_is_at_one_relative_place(
    image_id: int, level: int, side: int, crop: int
) -> None:
    crop = min(side, crop)
    free = side - crop + 1
    place = stored_corner(image_id=image_id, level=level, map_hw=(2**40, 2**40), crop_hw=(1, 1))
    corner = stored_corner(
        image_id=image_id, level=level, map_hw=(side, side), crop_hw=(crop, crop)
    )
    assert corner == (place[0] * free >> 40, place[1] * free >> 40)


@pytest.mark.parametrize("level", [0, 4])
def test_corners_reach_both_ends_and_every_place_about_equally_often(level: int) -> None:
    corners = np.array(
        [
            stored_corner(image_id=image, level=level, map_hw=(13, 21), crop_hw=(10, 16))
            for image in range(6000)
        ]
    )
    for axis, places in ((0, 4), (1, 6)):
        counts = np.bincount(corners[:, axis])
        assert len(counts) == places
        assert np.abs(counts * places / 6000 - 1).max() < 0.15


def test_corner_differs_between_levels_and_between_images() -> None:
    def of(image_id: int, level: int) -> tuple[int, int]:
        return stored_corner(image_id=image_id, level=level, map_hw=(200, 336), crop_hw=(96, 96))

    assert len({of(image, 0) for image in range(30)}) == 30
    assert len({of(139, level) for level in range(5)}) == 5


def test_corner_is_the_one_that_caches_of_this_format_have() -> None:
    assert [
        stored_corner(image_id=139, level=level, map_hw=(200, 336), crop_hw=(96, 96))
        for level in range(3)
    ] == [(16, 49), (16, 108), (66, 197)]


def test_level_trains_on_crops_and_validates_on_whole_maps(
    study: TinyStudy, tmp_path: Path
) -> None:
    root = cropped_study(study, tmp_path / "features", "train")
    options = ["--config", str(study.config_file), "--features", str(root), "--epochs", "1"]
    out = ["--out", str(tmp_path), "--log-level", "warning"]
    result = CliRunner().invoke(train_level, [*options, *out, "--level", "0"])
    assert result.exit_code == 0, result.output
    assert [run.level for run in find_runs(tmp_path)] == [0]


def refusal(split: str) -> str:
    return (
        f"the {split} cache holds crops of {CROP} positions, evaluation needs whole maps: "
        f"run extract-features --split {split} --overwrite without --crop (and without cache.crop)"
    )


def test_cropped_val_cache_is_refused_before_training(study: TinyStudy, tmp_path: Path) -> None:
    root = cropped_study(study, tmp_path / "features", "val")
    options = ["--config", str(study.config_file), "--features", str(root), "--level", "0"]
    result = CliRunner().invoke(train_level, [*options, "--out", str(tmp_path / "runs")])
    assert error_of(result) == refusal("val")
    assert not (tmp_path / "runs").exists()


def test_analysis_of_a_cropped_cache_is_refused_and_leaves_no_report(
    study: TinyStudy, tmp_path: Path
) -> None:
    root = cropped_study(study, tmp_path / "features", "train")
    options = ["--config", str(study.config_file), "--features", str(root), "--split", "train"]
    result = CliRunner().invoke(analyze_levels, [*options, "--report", str(tmp_path / "report")])
    assert error_of(result) == refusal("train")
    assert not (tmp_path / "report").exists()
