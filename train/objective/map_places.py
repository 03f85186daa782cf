"""Where in its image each map of a batch lies, and the image's boxes.

Places are in pixels of the detector's resized input, as a detector's anchors and boxes are. No box
is cut where a crop is: the backbone saw the whole image, so the labels of a crop's positions are
those that they have in the whole image. A detector's own crop augmentation cuts boxes as what it
learns from is the crop alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.errors import CacheError
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.cache.plan import stored_corner
from data.images.records import ImageRecord, ImageSet
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch
from train.objective.level_heads import FrozenHeads


@dataclass(frozen=True, kw_only=True, slots=True)
class MapPlace:
    """The positions of a level of one image that a map has, and the boxes of the whole image."""

    top: int
    left: int
    height: int
    width: int
    padded_hw: tuple[int, int]
    """Of the detector's input, px."""
    boxes: Tensor
    """float32 [N, 4], xyxy px of the detector's input."""
    labels: Tensor
    """int64 [N], as the detector counts them; 0 where they are not known."""

    def inside(self, boxes: Tensor, stride_px: int) -> Tensor:
        """Return boxes [K, 4] px as seen from the map's corner, those that lie wholly on it."""
        corner = boxes.new_tensor([self.left, self.top]) * stride_px
        moved = boxes - corner.repeat(2)
        end = boxes.new_tensor([self.width, self.height]) * stride_px
        return moved[((moved[:, :2] >= 0) & (moved[:, 2:] <= end)).all(1)]

    def in_image(self, boxes: Tensor, stride_px: int) -> Tensor:
        """Return boxes [K, 4] px that are seen from the map's corner as the image has them."""
        return boxes + boxes.new_tensor([self.left, self.top]).repeat(2) * stride_px


class MapPlaces:
    """The places of one cache's maps of one level; boxes lie on `device`."""

    def __init__(
        self, reader: LevelReader, heads: FrozenHeads, device: str, *, with_labels: bool
    ) -> None:
        """Read the cache's boxes.

        `with_labels`: match them with the detector's classes, and leave out those of none. Raises
        CacheError if the boxes cannot be read, or are needed and are none; ConfigError if no class
        matches.
        """
        self._reader = reader
        self._heads = heads
        self._device = device
        self._with_labels = with_labels
        images = read_annotations(reader.cache / ANNOTATIONS_NAME, reader.manifest.split)
        label_of = _labels(reader, images, heads) if with_labels else None
        self._boxes = {record.image_id: _learnt_from(record, label_of) for record in images.records}

    def of_cache(self, reader: LevelReader) -> MapPlaces:
        """Return those of another cache of this level."""
        return MapPlaces(reader, self._heads, self._device, with_labels=self._with_labels)

    def of(self, batch: Batch) -> list[MapPlace]:
        """Return the place of each map of a batch."""
        rows = zip(
            batch.indices.tolist(), batch.corners.tolist(), batch.sizes.tolist(), strict=True
        )
        return [self._place(index, corner, size) for index, corner, size in rows]

    def _place(self, index: int, corner: list[int], size: list[int]) -> MapPlace:
        manifest, level = self._reader.manifest, self._reader.info
        sample = manifest.samples[index]
        bucket = manifest.buckets[sample.bucket]
        padded = (bucket.height_px, bucket.width_px)
        top, left = corner
        if manifest.crop is not None:
            stored = stored_corner(
                image_id=sample.image_id,
                level=level.index,
                map_hw=self._heads.shapes_of(*padded)[level.key],
                crop_hw=bucket.level_shapes[level.index],
            )
            top, left = top + stored[0], left + stored[1]
        boxes, labels = self._boxes[sample.image_id]
        ratios = (sample.input_width / sample.width, sample.input_height / sample.height)
        return MapPlace(
            top=top, left=left, height=size[0], width=size[1], padded_hw=padded,
            boxes=(boxes * torch.tensor(ratios * 2)).to(self._device),
            labels=labels.to(self._device),
        )  # fmt: skip


def _labels(reader: LevelReader, images: ImageSet, heads: FrozenHeads) -> dict[int, int]:
    """Return category id -> the detector's label."""
    from extract.detector.class_labels import head_of, match_labels

    if not images.categories:
        raise CacheError(
            f"{reader.cache}: has no boxes to learn from: extract with annotations, or leave "
            "training.detection_loss out"
        )
    match = match_labels(heads.classes, head_of(heads.model), images.categories)
    return {category: label for label, category in match.category_of.items()}


def _learnt_from(record: ImageRecord, label_of: Mapping[int, int] | None) -> tuple[Tensor, Tensor]:
    """Return boxes float32 [N, 4] px of the image, labels int64 [N]; no crowds, none empty."""
    boxes, categories = record.boxes_xyxy, record.category_ids.tolist()
    kept = ~record.ignored & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if label_of is not None:
        kept = kept & np.array([category in label_of for category in categories], dtype=np.bool_)
    labels = np.array([(label_of or {}).get(category, 0) for category in categories], np.int64)
    return torch.from_numpy(boxes[kept].copy()), torch.from_numpy(labels[kept])
