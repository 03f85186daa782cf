"""Detections of a split are what the detector found, and can be kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analyze.detection.heads_on_levels import detect_from_levels
from analyze.facts.kept_results import Kept
from extract.accuracy.matches import Detections
from tests.analyze.detection.test_heads_on_levels import BUILDERS, own_levels, small_detector
from tests.support.pyramids import split_evaluator
from tests.support.tiny_study import TinyStudy


@pytest.mark.parametrize("builder", list(BUILDERS))
def test_boxes_of_every_family_are_in_the_arrays_image_by_image(builder: str) -> None:
    detector = small_detector(builder)
    image = torch.rand(3, 75, 110, generator=torch.Generator().manual_seed(1))
    found = detect_from_levels(detector, own_levels(detector, image), (75, 110))
    assert len(found["boxes"]) > 0
    none = {name: values[:0] for name, values in found.items()}
    detections = Detections.of({7: none, 3: found})
    assert detections.image_ids.tolist() == [7, 3]
    assert detections.rows(0) == slice(0, 0)
    for name in ("boxes", "labels", "scores"):
        values = getattr(detections, name)[detections.rows(1)]
        assert np.array_equal(values, found[name].numpy())


def test_detections_come_back_from_what_is_kept(tmp_path: Path, study: TinyStudy) -> None:
    with split_evaluator(study) as evaluator:
        detections = evaluator.detections({})
        kept = Kept(tmp_path)
        kept.put({"method": "test"}, {}, detections.arrays())
        found = kept.get({"method": "test"})
        assert found is not None
        again = Detections.from_arrays(found.arrays)
        for name, values in detections.arrays().items():
            assert values.dtype == again.arrays()[name].dtype
            assert np.array_equal(values, again.arrays()[name])
        assert evaluator.evaluate(again).accuracy == evaluator.accuracy({})


def test_detections_of_no_image_are_empty_arrays() -> None:
    detections = Detections.of({})
    assert detections.starts.tolist() == [0]
    assert detections.boxes.shape == (0, 4)
