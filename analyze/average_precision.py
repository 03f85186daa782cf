"""COCO mean average precision of one split's detections, computed by pycocotools."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

# Places in COCOeval.stats; it gives -1 where the split holds no such object.
_STATISTICS = {"map": 0, "map_50": 1, "small": 3, "medium": 4, "large": 5}


def mean_average_precision(
    detections: Mapping[int, Mapping[str, Tensor]],
    annotations: Path,
    label_to_category: Mapping[int, int],
) -> dict[str, float]:
    """Return `map` (0.50:0.95), `map_50`, `small`, `medium`, `large`, each 0..1, or -1: no objects.

    `detections` are image id -> boxes [N, 4] xyxy px, labels [N], scores [N]; only these images
    are evaluated. A label without category counts as no detection.
    """
    found = [
        entry
        for image_id, result in detections.items()
        for entry in _coco_entries(image_id, result, label_to_category)
    ]
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        truth.dataset.setdefault("info", {})
        evaluation = COCOeval(truth, _results(truth, found), "bbox")
        evaluation.params.imgIds = sorted(detections)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[place]) for name, place in _STATISTICS.items()}


def _results(truth: COCO, found: list[dict[str, Any]]) -> COCO:
    if found:
        return truth.loadRes(found)
    # loadRes cannot read an empty list; no detection at all is a legal, if sad, result.
    empty = COCO()
    empty.dataset = {
        "images": truth.dataset["images"],
        "categories": truth.dataset["categories"],
        "annotations": [],
    }
    empty.createIndex()
    return empty


def _coco_entries(
    image_id: int, result: Mapping[str, Tensor], label_to_category: Mapping[int, int]
) -> list[dict[str, Any]]:
    boxes = result["boxes"].tolist()
    labels = result["labels"].tolist()
    scores = result["scores"].tolist()
    return [
        {
            "image_id": image_id,
            "category_id": label_to_category[label],
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }
        for (left, top, right, bottom), label, score in zip(boxes, labels, scores, strict=True)
        if label in label_to_category
    ]
