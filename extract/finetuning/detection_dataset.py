"""A split's images and boxes as torchvision's detectors learn from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.images.image_sets import read_planned_image
from data.images.records import ImageRecord, ImageSet


class DetectionDataset(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Images float32 [3, H, W] in 0..1; boxes [N, 4] xyxy px, contiguous labels [N] from 1."""

    def __init__(self, images: ImageSet, *, flip: bool) -> None:
        self._labels = {category: i for i, category in enumerate(sorted(images.categories), 1)}
        self._records = [record for record in images.records if len(_kept(record)[0])]
        self._flip = flip

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        record = self._records[index]
        image = _as_floats(read_planned_image(record.file, (record.height, record.width)))
        boxes_array, categories = _kept(record)
        boxes = torch.from_numpy(boxes_array.copy()).float()
        labels = torch.tensor([self._labels[int(c)] for c in categories], dtype=torch.int64)
        if self._flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
            boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": labels}


def drop_slivers(_transform: Any, _inputs: Any, output: tuple[Any, Any]) -> tuple[Any, Any]:
    """Forward hook of a detector's transform: leave out boxes that it leaves without area.

    In float32 a thin box may lose its width as it is mirrored or resized, and torchvision's
    detectors end on such a one.
    """
    images, targets = output
    if targets is None:
        return output
    return images, [_with_area(target) for target in targets]


def _with_area(target: dict[str, Tensor]) -> dict[str, Tensor]:
    boxes = target["boxes"]
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    return {name: values[keep] for name, values in target.items()}


def _as_floats(image: Any) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float().div_(255)


def _kept(record: ImageRecord) -> tuple[Any, Any]:
    """Boxes and categories to learn from: no crowds, no boxes without area."""
    boxes = record.boxes_xyxy
    keep = ~record.ignored & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[keep], record.category_ids[keep]
