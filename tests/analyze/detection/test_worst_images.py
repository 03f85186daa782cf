"""The images that a codec hurts most come first, with their boxes."""

from __future__ import annotations

import numpy as np
import pytest

from analyze.detection.worst_images import MatchedDetections, worst_images
from data.cache.annotations import read_annotations
from extract.accuracy.matches import Detections
from tests.support.pyramids import split_evaluator
from tests.support.tiny_study import TinyStudy


def test_image_whose_boxes_vanish_is_hurt_most(study: TinyStudy) -> None:
    with split_evaluator(study) as evaluator:
        images = read_annotations(evaluator.annotations, "val")
        records = images.records
        # The truths themselves as detections, all of them before and none in the last image after.
        ids = np.array([record.image_id for record in records], dtype=np.int64)
        counts = [len(record.boxes_xyxy) for record in records]
        assert min(counts) > 0
        labels = np.concatenate([record.category_ids for record in records])
        scores = np.where(np.arange(len(labels)) % 2 == 0, 0.9, 0.3).astype(np.float32)
        before = Detections(
            image_ids=ids,
            starts=np.cumsum([0, *counts]),
            boxes=np.concatenate([record.boxes_xyxy for record in records]),
            labels=labels,
            scores=scores,
        )
        kept = sum(counts[:-1])
        after = Detections(
            image_ids=ids,
            starts=np.cumsum([0, *counts[:-1], 0]),
            boxes=before.boxes[:kept],
            labels=labels[:kept],
            scores=scores[:kept],
        )
        worst = worst_images(
            MatchedDetections(detections=before, matches=evaluator.evaluate(before).matches),
            MatchedDetections(detections=after, matches=evaluator.evaluate(after).matches),
            images,
            evaluator.label_to_category,
            num_worst=2,
        )
    assert [each.image_id for each in worst] == [records[-1].image_id, records[0].image_id]
    hurt, spared = worst
    assert (hurt.ap_before, hurt.ap_after, hurt.loss) == pytest.approx((1.0, 0.0, 1.0))
    assert spared.loss == 0.0
    assert hurt.file == records[-1].file
    assert np.array_equal(hurt.truth.xyxy, records[-1].boxes_xyxy)
    shown = before.scores[before.rows(2)] >= 0.5
    assert np.array_equal(hurt.before.xyxy, records[-1].boxes_xyxy[shown])
    assert len(hurt.after.xyxy) == 0
