"""The plan: every image has one place, shards keep their size, units never straddle a shard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from configs.errors import ConfigError
from data.cache.containers import STORES, rows_of_shard
from data.cache.manifest import Manifest
from data.cache.manifest_parts import LevelInfo
from data.cache.plan import (
    choose_levels,
    level_bytes,
    plan_samples,
    resized_size,
    samples_by_bucket,
    units_of,
)
from data.images.records import ImageRecord

STRIDES_PX = (4, 8, 16, 32, 64)
LEVELS = tuple(
    LevelInfo(index=i, key=str(i), stride_px=stride, num_channels=256, derived_from=None)
    for i, stride in enumerate(STRIDES_PX)
)
SIDES = st.integers(min_value=1, max_value=500)


def shapes_of(height_px: int, width_px: int) -> Mapping[int, tuple[int, int]]:
    return {i: (-(-height_px // s), -(-width_px // s)) for i, s in enumerate(STRIDES_PX)}


def plan(
    sizes: list[tuple[int, int]], max_shard_bytes: int, levels: tuple[LevelInfo, ...] = LEVELS
) -> Manifest:
    records = [
        ImageRecord(
            image_id=number,
            file=f"{number}.png",
            height=height,
            width=width,
            boxes_xyxy=np.zeros((0, 4), np.float32),
            category_ids=np.zeros(0, np.int64),
            ignored=np.zeros(0, bool),
        )
        for number, (height, width) in enumerate(sizes)
    ]
    buckets, samples = plan_samples(
        records,
        sizes,
        levels=levels,
        shapes_of=shapes_of,
        divisible=32,
        bytes_per_value=2,
        max_shard_bytes=max_shard_bytes,
    )
    return Manifest(
        format_version=1,
        dataset="planned",
        split="train",
        container="zarr",
        dtype="float16",
        detector={},
        levels=levels,
        buckets=buckets,
        samples=samples,
    )


PLANS = st.builds(
    plan,
    st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=60),
    st.integers(min_value=1, max_value=30_000_000),
    st.sampled_from([LEVELS, LEVELS[1:], LEVELS[2:4], LEVELS[4:]]),
)


@given(manifest=PLANS)
@settings(deadline=None)
def test_buckets_partition_the_images_and_rows_are_unique(manifest: Manifest) -> None:
    by_bucket = samples_by_bucket(manifest)
    assert sorted(i for rows in by_bucket for i in rows) == list(range(len(manifest.samples)))
    for bucket, members in zip(manifest.buckets, by_bucket, strict=True):
        assert bucket.num_samples == len(members)
        assert [manifest.samples[index].row for index in members] == list(range(len(members)))
        for sample in (manifest.samples[index] for index in members):
            assert 0 <= bucket.height_px - sample.input_height < 32
            assert 0 <= bucket.width_px - sample.input_width < 32
    assert len({bucket.array_name for bucket in manifest.buckets}) == len(manifest.buckets)


@given(
    sizes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=60),
    max_shard_bytes=st.integers(min_value=1, max_value=30_000_000),
)
@settings(deadline=None)
def test_shard_holds_at_most_its_bytes_or_one_sample(
    sizes: list[tuple[int, int]], max_shard_bytes: int
) -> None:
    manifest = plan(sizes, max_shard_bytes)
    for number, bucket in enumerate(manifest.buckets):
        for level in manifest.levels:
            count = bucket.samples_per_shard[level.index]
            assert 1 <= count <= bucket.num_samples
            size = count * manifest.sample_bytes(level.index, number)
            assert size <= max_shard_bytes or count == 1


@given(manifest=PLANS)
@settings(deadline=None)
def test_shards_of_a_level_hold_each_row_once(manifest: Manifest) -> None:
    for number, bucket in enumerate(manifest.buckets):
        for level in manifest.levels:
            shards = range(bucket.num_shards(level.index))
            rows = [r for s in shards for r in rows_of_shard(manifest, level.index, number, s)]
            assert rows == list(range(bucket.num_samples))


@given(manifest=PLANS)
@settings(deadline=None)
def test_units_cover_everything_once_and_never_straddle_a_shard(manifest: Manifest) -> None:
    units = units_of(manifest)
    assert [unit.index for unit in units] == list(range(len(units)))
    covered = []
    for unit in units:
        rows = range(unit.first_row, unit.first_row + unit.num_rows)
        covered += [(unit.bucket, row) for row in rows]
        for level in manifest.levels:
            per_shard = manifest.buckets[unit.bucket].samples_per_shard[level.index]
            assert rows.start // per_shard == (rows.stop - 1) // per_shard
    assert sorted(covered) == sorted((sample.bucket, sample.row) for sample in manifest.samples)
    assert len(covered) == len(manifest.samples)


@given(manifest=PLANS)
@settings(deadline=None)
def test_level_bytes_is_the_sum_over_the_samples(manifest: Manifest) -> None:
    for level in manifest.levels:
        total = sum(manifest.sample_bytes(level.index, s.bucket) for s in manifest.samples)
        assert level_bytes(manifest, level.index) == total


@pytest.mark.parametrize("container", ["zarr", "hdf5"])
def test_buckets_whose_coarse_maps_have_one_size_share_no_file(container: str) -> None:
    manifest = plan([(160, 160), (192, 160)], 10**6)
    assert [bucket.level_shapes[4] for bucket in manifest.buckets] == [(3, 3), (3, 3)]
    paths = [
        STORES[container].shard_path(Path("cache"), manifest, 4, bucket, 0) for bucket in (0, 1)
    ]
    assert paths[0].parent != paths[1].parent


def test_same_input_gives_the_same_fingerprint_and_another_image_another() -> None:
    sizes = [(100, 200), (64, 64), (100, 200)]
    assert plan(sizes, 10**6).fingerprint == plan(sizes, 10**6).fingerprint
    assert plan(sizes, 10**6).fingerprint != plan(sizes[:2], 10**6).fingerprint


def test_difference_between_plans_is_told_in_words() -> None:
    sizes = [(100, 200), (64, 64)]
    assert plan(sizes, 10**6).difference_from(plan(sizes, 10**6)) is None
    assert plan(sizes, 10**6).difference_from(plan(sizes[:1], 10**6)) == "images: 1 there, 2 now"
    fewer = plan(sizes, 10**6, LEVELS[1:])
    assert fewer.difference_from(plan(sizes, 10**6)) == (
        "levels: [0, 1, 2, 3, 4] there, [1, 2, 3, 4] now"
    )
    smaller = plan(sizes[:1] * 9, 10**6).difference_from(plan(sizes[:1] * 9, 10**7))
    assert smaller == "levels, buckets or shard size"


def test_wanted_levels_come_finest_first_and_once() -> None:
    assert [level.index for level in choose_levels(LEVELS, [3, 1, 3])] == [1, 3]


def test_level_that_the_detector_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(ConfigError, match=r"^cache\.levels: the detector has levels 0, .*, not 7$"):
        choose_levels(LEVELS, [0, 7])


@given(
    height=st.integers(min_value=20, max_value=900),
    width=st.integers(min_value=20, max_value=900),
    min_size=st.integers(min_value=32, max_value=200),
    longer_by=st.integers(min_value=0, max_value=150),
)
@settings(max_examples=150, deadline=None)
def test_resized_size_is_that_of_torchvisions_transform(
    height: int, width: int, min_size: int, longer_by: int
) -> None:
    max_size = min_size + longer_by
    expected = resized_size(height, width, min_size=min_size, max_size=max_size, fixed=None)
    assume(min(expected) > 0)
    transform = GeneralizedRCNNTransform(min_size, max_size, [0.0], [1.0]).eval()
    listed, _ = transform([torch.zeros(1, height, width)])
    assert listed.image_sizes == [expected]


def test_fixed_size_is_given_as_width_and_height_and_returned_as_height_and_width() -> None:
    transform = GeneralizedRCNNTransform(100, 200, [0.0], [1.0], fixed_size=(80, 64)).eval()
    listed, _ = transform([torch.zeros(1, 120, 77)])
    fixed = resized_size(120, 77, min_size=100, max_size=200, fixed=(80, 64))
    assert fixed == (64, 80)
    assert listed.image_sizes == [fixed]
