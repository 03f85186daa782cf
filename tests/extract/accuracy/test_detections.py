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


def results_of(scores: dict[int, list[float]]) -> dict[int, dict[str, torch.Tensor]]:
    """Boxes of these scores; labels and places are the scores' order."""
    return {
        image_id: {
            "boxes": torch.arange(4.0 * len(each)).reshape(-1, 4),
            "labels": torch.arange(len(each)),
            "scores": torch.tensor(each),
        }
        for image_id, each in scores.items()
    }


def test_pooled_detections_are_those_of_one_detector_that_found_them_image_by_image() -> None:
    first = {5: [0.5, 0.25], 1: [], 3: [0.125]}
    second = {3: [0.75, 0.5, 0.25], 1: [0.375], 5: [0.875]}
    pooled = Detections.pooled(
        [(Detections.of(results_of(first)), [5]), (Detections.of(results_of(second)), [3, 1])]
    )
    whole = Detections.of(results_of({1: second[1], 3: second[3], 5: first[5]}))
    for name, values in whole.arrays().items():
        assert np.array_equal(pooled.arrays()[name], values)
        assert pooled.arrays()[name].dtype == values.dtype


@pytest.mark.parametrize("twice", [[1, 5], [2]])
def test_image_that_is_picked_twice_or_was_not_looked_at_is_refused(twice: list[int]) -> None:
    found = Detections.of(results_of({5: [0.5], 1: []}))
    with pytest.raises(ValueError, match="picked twice, or has no detections"):
        Detections.pooled([(found, [5]), (found, twice)])


def test_detections_of_no_image_are_empty_arrays() -> None:
    detections = Detections.of({})
    assert detections.starts.tolist() == [0]
    assert detections.boxes.shape == (0, 4)
