"""The built-in scenes: the same everywhere, labelled correctly, and disjoint between splits."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.schema.data import DataConfig, SplitConfig
from data.images.image_sets import load_images, read_image
from data.images.scenes import CLASSES, SIZES_HW_PX, render_scene

NUM_SCENES = 6


def load_scenes(seed: int, num_scenes: int = NUM_SCENES) -> Any:
    split = SplitConfig(num_scenes=num_scenes, scene_seed=seed)
    return load_images(DataConfig(splits={"val": split}), "val")


@settings(deadline=None, max_examples=15)
@given(index=st.integers(0, 10_000), seed=st.integers(0, 2**32))
def test_every_scene_has_one_of_the_sizes_and_boxes_inside(index: int, seed: int) -> None:
    scene = render_scene(index=index, seed=seed)
    height, width, _ = scene.image.shape
    assert (height, width) in SIZES_HW_PX
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert scene.boxes_xyxy.dtype == np.float32
    assert scene.boxes_xyxy.shape == (len(scene.labels), 4)
    left, top, right, bottom = scene.boxes_xyxy.T
    assert ((left >= 0) & (left < right) & (right <= width)).all()
    assert ((top >= 0) & (top < bottom) & (bottom <= height)).all()
    assert np.isin(scene.labels, np.arange(1, len(CLASSES) + 1)).all()


@settings(deadline=None, max_examples=5)
@given(index=st.integers(0, 10_000), seed=st.integers(0, 2**32))
def test_scene_rendered_twice_is_the_same(index: int, seed: int) -> None:
    first, second = render_scene(index, seed), render_scene(index, seed)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.boxes_xyxy, second.boxes_xyxy)
    assert np.array_equal(first.labels, second.labels)


def test_scene_does_not_depend_on_what_was_rendered_before() -> None:
    alone = render_scene(index=3, seed=1).image
    for index in (0, 7):
        render_scene(index=index, seed=2)
    assert np.array_equal(render_scene(index=3, seed=1).image, alone)


def test_records_of_a_split_are_its_scenes() -> None:
    images = load_scenes(seed=2)
    assert images.categories == dict(enumerate(CLASSES, start=1))
    assert [record.image_id for record in images.records] == list(range(1, NUM_SCENES + 1))
    for index, record in enumerate(images.records):
        scene = render_scene(index=index, seed=2)
        assert record.file == f"scene:2:{index}"
        assert (record.height, record.width) == scene.image.shape[:2]
        assert np.array_equal(record.boxes_xyxy, scene.boxes_xyxy)
        assert np.array_equal(record.category_ids, scene.labels)
        assert not record.ignored.any()
        assert np.array_equal(read_image(record.file), scene.image)


def test_larger_split_begins_with_the_smaller_one() -> None:
    few, many = load_scenes(seed=1, num_scenes=2), load_scenes(seed=1, num_scenes=4)
    assert [record.file for record in many.records[:2]] == [record.file for record in few.records]


def test_splits_share_no_scene() -> None:
    splits = DataConfig().splits
    assert list(splits) == ["train", "val", "test"]
    seeds = [split.scene_seed for split in splits.values()]
    assert len(set(seeds)) == len(seeds)
    pixels = {
        render_scene(index=index, seed=seed).image.tobytes()
        for seed in seeds
        if seed is not None
        for index in range(NUM_SCENES)
    }
    assert len(pixels) == len(seeds) * NUM_SCENES


def test_scenes_hold_all_classes_and_objects_from_small_to_large() -> None:
    records = load_scenes(seed=1, num_scenes=40).records
    labels = np.concatenate([record.category_ids for record in records])
    boxes = np.concatenate([record.boxes_xyxy for record in records])
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    assert set(labels.tolist()) == set(range(1, len(CLASSES) + 1))
    assert sides.min() < 24
    assert sides.max() > 90


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"scene_seed": 1},
            "num_scenes: is not set: write how many scenes, or set data.format for files",
        ),
        (
            {"num_scenes": 1},
            "scene_seed: is not set: write a number of its own per split",
        ),
        (
            {"images": "photos"},
            "images: not for format scenes: remove it, or set data.format to "
            "coco or kitti or voc or folder",
        ),
    ],
)
def test_mistake_in_a_split_of_scenes_names_the_key(keys: dict[str, Any], message: str) -> None:
    data = DataConfig(splits={"val": SplitConfig(**keys)})
    with pytest.raises(ConfigError, match=f"^{re.escape(f'data.splits.val.{message}')}$"):
        load_images(data, "val")


def test_malformed_scene_name_is_refused() -> None:
    message = "scene:1: no built-in scene: write scene:<seed>:<index>"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        read_image("scene:1")
