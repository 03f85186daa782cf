"""Where and how decoded maps and trails are stored."""

from __future__ import annotations

import dataclasses
import json

import pytest

from configs.errors import CacheError
from configs.schema.training import ModelConfig
from data.cache.manifest import Manifest
from tests.support.small_caches import random_maps, write_maps
from train.context.decoded_plan import decoded_bytes, decoded_plans


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("plan") / "train"
    maps = random_maps([(9, 20), (9, 20), (4, 4)], 8, seed=1)
    return Manifest.load(write_maps(folder, maps, level=2, stride=16))


def model(**more: object) -> ModelConfig:
    return ModelConfig.model_validate({"n_hidden": 4, "n_channels": 6, "stages": 3, **more})


def test_plans_are_of_the_same_images_and_units_on_grids_of_maps_and_latents(
    manifest: Manifest,
) -> None:
    maps, trail = decoded_plans(manifest, 2, model(), "here")
    assert maps.samples == trail.samples == manifest.samples
    assert [x.samples_per_shard for x in maps.buckets] == [x.samples_per_shard for x in
                                                           trail.buckets]  # fmt: skip
    assert {maps.sample_shape(2, 0), maps.sample_shape(2, 1)} == {(9, 20, 8), (4, 4, 8)}
    assert {trail.sample_shape(2, 0), trail.sample_shape(2, 1)} == {(2, 3, 6), (1, 1, 6)}
    assert (trail.level(2).stride_px, trail.dtype, maps.dtype) == (128, "float32", "float16")
    for plan in (maps, trail):
        assert Manifest.from_json(json.loads(plan.to_json())) == plan
    num_values = (9 * 20 * 2 + 16) * 8, (2 * 3 * 2 + 1) * 6
    assert decoded_bytes(manifest, 2, model()) == 2 * num_values[0] + 4 * num_values[1]


def test_a_trail_carries_the_latents_of_all_coarser_levels(manifest: Manifest) -> None:
    seen = {"num_channels": 8, "stride": 2, "trail_channels": 10, "trail_stride": 8}
    _, trail = decoded_plans(manifest, 2, model(context=seen), "here")
    assert trail.level(2).num_channels == 16


def test_what_is_decoded_of_8_bits_is_float16(manifest: Manifest) -> None:
    source = dataclasses.replace(manifest, dtype="uint8", codes={}, format_version=2)
    maps, _ = decoded_plans(source, 2, model(), "here")
    assert (maps.dtype, maps.codes, maps.format_version) == ("float16", None, 1)


def test_cropped_caches_are_refused(manifest: Manifest) -> None:
    with pytest.raises(CacheError, match="holds crops of 64 positions, whose places match in no"):
        decoded_plans(dataclasses.replace(manifest, crop=64), 2, model(), "here")
