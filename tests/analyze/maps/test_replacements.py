"""Levels that are not sent: derived ones are the detector's own, dropped ones their mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from analyze.detection.heads_on_levels import backbone_keys
from analyze.maps.replacements import DerivedMaps, DroppedMaps, derivations
from data.reading.level_reader import LevelReader
from tests.analyze.detection.test_heads_on_levels import BUILDERS, own_levels, small_detector
from tests.support.pyramids import split_evaluator
from tests.support.tiny_study import TinyStudy

SOURCES = {
    "fasterrcnn_mobilenet_v3_large_fpn": {2: 1},
    "maskrcnn_resnet50_fpn": {4: 3},
    "retinanet_resnet50_fpn": {3: 2, 4: 3},
    "fcos_resnet50_fpn": {3: 2, 4: 3},
    "retinanet_resnet50_fpn_v2": {4: 3},
}


class OneMap:
    """A source of a single map."""

    def __init__(self, maps: torch.Tensor) -> None:
        self._values: NDArray[Any] = maps[0].permute(1, 2, 0).numpy()

    def read(self, index: int) -> NDArray[Any]:
        assert index == 0
        return self._values


@pytest.mark.parametrize("builder", list(SOURCES))
def test_derived_level_is_the_one_the_detector_computes(builder: str) -> None:
    detector = small_detector(builder)
    keys = backbone_keys(detector)
    assert keys == BUILDERS.get(builder, ("0", "1", "2", "p6", "p7"))
    image = torch.rand(3, 75, 110, generator=torch.Generator().manual_seed(1))
    levels = list(own_levels(detector, image).values())
    found = derivations(detector, keys)
    assert {level: each.source_level for level, each in found.items()} == SOURCES[builder]
    for level, derivation in found.items():
        maps = DerivedMaps(OneMap(levels[derivation.source_level]), derivation).read(0)
        expected = levels[level][0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-5)


def test_level_derived_from_a_derived_level_is_the_detectors_too() -> None:
    detector = small_detector("retinanet_resnet50_fpn")
    image = torch.rand(3, 75, 110, generator=torch.Generator().manual_seed(1))
    levels = list(own_levels(detector, image).values())
    found = derivations(detector, backbone_keys(detector))
    p7 = DerivedMaps(DerivedMaps(OneMap(levels[2]), found[3]), found[4]).read(0)
    expected = levels[4][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(p7, expected, rtol=1e-4, atol=1e-5)


def test_cached_pool_level_comes_back_from_the_level_before_it_bit_for_bit(
    study: TinyStudy,
) -> None:
    with split_evaluator(study) as evaluator:
        found = derivations(evaluator.detector, backbone_keys(evaluator.detector))
        assert list(found) == [4]
        derived = DerivedMaps(_Cached(evaluator.readers[3]), found[4])
        for index in evaluator.indices:
            assert np.array_equal(derived.read(index), evaluator.readers[4].sample(index))
        assert evaluator.accuracy({4: derived}) == evaluator.accuracy({})


class _Cached:
    def __init__(self, reader: LevelReader) -> None:
        self._reader = reader

    def read(self, index: int) -> NDArray[Any]:
        return self._reader.sample(index)


def test_dropped_level_is_the_mean_of_each_channel_in_the_samples_own_shape(
    study: TinyStudy,
) -> None:
    with LevelReader(study.val_cache, 1) as reader, LevelReader(study.train_cache, 1) as train:
        mean = train.statistics.mean.astype(np.float32)
        maps = DroppedMaps(reader, mean)
        for index in range(reader.num_samples):
            values = maps.read(index)
            assert values.shape == reader.shape(index)
            assert np.array_equal(values[0, -1], mean)
            assert (values == values[0, 0]).all()


def test_detector_without_a_known_pyramid_derives_nothing() -> None:
    assert derivations(torch.nn.Linear(1, 1), ("0", "1", "pool")) == {}
