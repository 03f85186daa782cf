"""Which images a codec hurts most, with their boxes before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.images.records import ImageRecord, ImageSet
from extract.accuracy.matches import Detections, Matches, map_per_image

SHOWN_SCORE = 0.5
"""Boxes of a lower score are left out of pictures, as torchvision's own examples do; AP has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Boxes:
    """N boxes of one image."""

    xyxy: NDArray[Any]
    """float32 [N, 4], px of the original image."""
    categories: NDArray[Any]
    """int64 [N], the data set's category ids."""
    scores: NDArray[Any]
    """float32 [N]; of truths 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedDetections:
    """What was detected, and what that matched."""

    detections: Detections
    matches: Matches


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDamage:
    """One image: mAP (0.50:0.95) of this image alone, and boxes above the threshold of scores."""

    image_id: int
    file: str
    ap_before: float
    ap_after: float
    before: Boxes
    after: Boxes
    truth: Boxes

    @property
    def loss(self) -> float:
        """How much AP fell; negative if it rose."""
        return self.ap_before - self.ap_after


def worst_images(
    before: MatchedDetections,
    after: MatchedDetections,
    images: ImageSet,
    label_to_category: Mapping[int, int],
    *,
    num_worst: int,
    min_score: float = SHOWN_SCORE,
) -> list[ImageDamage]:
    """Return the images that lost most AP, the worst first; equal losses by image id.

    Images without a truth that counts have no AP and are left out. ValueError if `before` and
    `after` are not of the same images.
    """
    if not np.array_equal(before.matches.image_ids, after.matches.image_ids):
        raise ValueError("damage is between detections on the same images")
    ap_before, ap_after = map_per_image(before.matches), map_per_image(after.matches)
    losses = ap_before - ap_after
    ranked = np.argsort(-losses, kind="stable")  # NaN comes last
    records = {record.image_id: record for record in images.records}
    return [
        ImageDamage(
            image_id=image_id,
            file=records[image_id].file,
            ap_before=float(ap_before[place]),
            ap_after=float(ap_after[place]),
            before=_shown(before.detections, image_id, label_to_category, min_score),
            after=_shown(after.detections, image_id, label_to_category, min_score),
            truth=_truth(records[image_id]),
        )
        for place in ranked[: min(num_worst, int((~np.isnan(losses)).sum()))].tolist()
        for image_id in [int(before.matches.image_ids[place])]
    ]


def _shown(
    detections: Detections, image_id: int, label_to_category: Mapping[int, int], min_score: float
) -> Boxes:
    (place,) = np.flatnonzero(detections.image_ids == image_id).tolist()
    rows = detections.rows(place)
    labels = detections.labels[rows]
    known = np.isin(labels, list(label_to_category)) & (detections.scores[rows] >= min_score)
    categories = [label_to_category[label] for label in labels[known].tolist()]
    return Boxes(
        xyxy=detections.boxes[rows][known],
        categories=np.array(categories, dtype=np.int64),
        scores=detections.scores[rows][known],
    )


def _truth(record: ImageRecord) -> Boxes:
    counted = ~record.ignored
    return Boxes(
        xyxy=record.boxes_xyxy[counted],
        categories=record.category_ids[counted],
        scores=np.ones(int(counted.sum()), dtype=np.float32),
    )
