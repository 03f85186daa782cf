"""A detector's own COCO mAP on images: the plain path that cached features must reproduce."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from data.cache.annotations import write_annotations
from data.images.loading import read_image
from data.images.records import ImageSet
from extract.accuracy.average_precision import mean_average_precision
from extract.detector.loading import label_to_category, num_labels


def evaluate_detector(
    model: Any, classes: tuple[str, ...] | None, images: ImageSet
) -> dict[str, float]:
    """Return `map`, `map_50`, `small`, `medium`, `large` of a detector in eval mode on a split."""
    device = next(model.parameters()).device
    detections = {}
    for record in images.records:
        image = torch.from_numpy(read_image(record.file)).permute(2, 0, 1).float().div_(255)
        with torch.inference_mode():
            result = model([image.to(device)])[0]
        detections[record.image_id] = {
            name: result[name].cpu() for name in ("boxes", "labels", "scores")
        }
    labels = label_to_category(classes, num_labels(model), images.categories)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        write_annotations(path, images)
        return mean_average_precision(detections, path, labels)
