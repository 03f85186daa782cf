"""A tiny study's val split with its detector, ready for detection, whatever the detector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from analyze.detection.split_evaluator import SplitEvaluator
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.reading.level_reader import LevelReader
from extract.detector.loading import load_detector
from tests.support.tiny_study import TinyStudy


@contextmanager
def split_evaluator(study: TinyStudy) -> Iterator[SplitEvaluator]:
    """An evaluator of the split val whose detector keeps boxes of any score."""
    model = load_detector(study.config.detector).model
    model.roi_heads.score_thresh = 0.0
    boxes = study.val_cache / ANNOTATIONS_NAME
    categories = read_annotations(boxes, "val").categories
    readers = {level: LevelReader(study.val_cache, level) for level in range(5)}
    try:
        yield SplitEvaluator(
            detector=model,
            readers=readers,
            indices=range(3),
            annotations=boxes,
            label_to_category={label: label for label in categories},
        )
    finally:
        for reader in readers.values():
            reader.close()
