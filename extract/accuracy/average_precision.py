"""COCO mean average precision by pycocotools: of detections, and of a detector on images."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Collection, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from data.cache.annotations import write_annotations
from data.images.image_sets import read_planned_image
from data.images.records import ImageSet
from extract.accuracy.bootstrap import Accuracy
from extract.accuracy.matches import Detections, Matches, matches_of
from extract.detector.class_labels import head_of, match_labels

# Places in COCOeval.stats; it gives -1 where the split holds no such object.
_STATISTICS = {"map": 0, "map_50": 1, "small": 3, "medium": 4, "large": 5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """pycocotools' figures, and the matches behind them."""

    accuracy: Accuracy
    matches: Matches


def evaluate_detections(
    detections: Detections,
    annotations: Path,
    label_to_category: Mapping[int, int],
    category_ids: Collection[int] | None = None,
) -> Evaluation:
    """Compare detections with a COCO file's boxes; only the images of `detections` are evaluated.

    A label without category counts as no detection. `category_ids`: of these alone; None: of all
    categories of which the images have boxes, those that no label means too.
    """
    found = _coco_entries(detections, label_to_category)
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        truth.dataset.setdefault("info", {})
        evaluation = COCOeval(truth, _results(truth, found), "bbox")
        evaluation.params.imgIds = sorted(detections.image_ids.tolist())
        if category_ids is not None:
            evaluation.params.catIds = sorted(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = {name: float(evaluation.stats[place]) for name, place in _STATISTICS.items()}
    accuracy = Accuracy(
        map=figures["map"],
        map_50=figures["map_50"],
        small=figures["small"],
        medium=figures["medium"],
        large=figures["large"],
    )
    return Evaluation(accuracy=accuracy, matches=matches_of(evaluation))


def mean_average_precision(
    detections: Mapping[int, Mapping[str, Tensor]],
    annotations: Path,
    label_to_category: Mapping[int, int],
) -> dict[str, float]:
    """Return `map` (0.50:0.95), `map_50`, `small`, `medium`, `large`, each 0..1, or -1: no objects.

    `detections` are image id -> boxes [N, 4] xyxy px, labels [N], scores [N]; only these images
    are evaluated. A label without category counts as no detection.
    """
    evaluation = evaluate_detections(Detections.of(detections), annotations, label_to_category)
    return {name: getattr(evaluation.accuracy, name) for name in _STATISTICS}


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
    detections: Detections, label_to_category: Mapping[int, int]
) -> list[dict[str, Any]]:
    image_ids = detections.image_ids.repeat(detections.starts[1:] - detections.starts[:-1])
    columns = (image_ids, detections.boxes, detections.labels, detections.scores)
    return [
        {
            "image_id": image_id,
            "category_id": label_to_category[label],
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }
        for image_id, (left, top, right, bottom), label, score in zip(
            *(column.tolist() for column in columns), strict=True
        )
        if label in label_to_category
    ]


def evaluate_detector(
    model: Any, classes: tuple[str, ...] | None, images: ImageSet
) -> dict[str, float]:
    """Return `map`, `map_50`, `small`, `medium`, `large` of a detector in eval mode on a split."""
    device = next(model.parameters()).device
    detections = {}
    for record in images.records:
        pixels = read_planned_image(record.file, (record.height, record.width))
        image = torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)
        with torch.inference_mode():
            result = model([image.to(device)])[0]
        detections[record.image_id] = {
            name: result[name].cpu() for name in ("boxes", "labels", "scores")
        }
    labels = match_labels(classes, head_of(model), images.categories).category_of
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        write_annotations(path, images)
        return mean_average_precision(detections, path, labels)
