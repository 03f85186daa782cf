"""What a detector found, which of it hits which truths, and the mAP of any resampling from that.

Matching goes image by image, so it need not be done again when images count more often or not at
all; only COCO's accumulation over the sorted detections has to be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """The boxes of I images, D in all; those of image i are `starts[i]` to `starts[i + 1]`."""

    image_ids: NDArray[Any]
    """int64 [I]."""
    starts: NDArray[Any]
    """int64 [I + 1]."""
    boxes: NDArray[Any]
    """float32 [D, 4], xyxy in px of the original image."""
    labels: NDArray[Any]
    """int64 [D], as the detector numbers its classes."""
    scores: NDArray[Any]
    """float32 [D], 0..1."""

    @classmethod
    def of(cls, results: Mapping[int, Mapping[str, Tensor | NDArray[Any]]]) -> Detections:
        """Join what a torchvision detector returns: image id -> boxes, labels, scores, on CPU."""
        found = list(results.values())
        boxes = [np.asarray(each["boxes"], dtype=np.float32).reshape(-1, 4) for each in found]
        labels = [np.asarray(each["labels"], dtype=np.int64) for each in found]
        scores = [np.asarray(each["scores"], dtype=np.float32) for each in found]
        return cls(
            image_ids=np.array(list(results), dtype=np.int64),
            starts=np.cumsum([0, *map(len, labels)], dtype=np.int64),
            boxes=np.concatenate([np.zeros((0, 4), dtype=np.float32), *boxes]),
            labels=np.concatenate([np.zeros(0, dtype=np.int64), *labels]),
            scores=np.concatenate([np.zeros(0, dtype=np.float32), *scores]),
        )

    @classmethod
    def pooled(cls, picked: Iterable[tuple[Detections, Collection[int]]]) -> Detections:
        """Join what was found on some images (ids) each, by rising id.

        Raises ValueError for an image that is picked twice, or that its detections do not have.
        """
        rows: dict[int, tuple[Detections, slice]] = {}
        for found, image_ids in picked:
            places = {image_id: place for place, image_id in enumerate(found.image_ids.tolist())}
            for image_id in image_ids:
                if image_id in rows or image_id not in places:
                    raise ValueError(f"image {image_id} is picked twice, or has no detections")
                rows[image_id] = found, found.rows(places[image_id])
        return cls.of(
            {
                image_id: {
                    name: getattr(found, name)[here] for name in ("boxes", "labels", "scores")
                }
                for image_id, (found, here) in sorted(rows.items())
            }
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return name -> array, from which `from_arrays` makes the same detections."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Detections:
        """Inverse of `arrays`; names that are not of it are left alone."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def rows(self, position: int) -> slice:
        """Return where the boxes of `image_ids[position]` lie in the arrays."""
        return slice(int(self.starts[position]), int(self.starts[position + 1]))


_VALUES_AT_ONCE = 2**22  # of one array of the accumulation: 32 MiB in float64
RECALLS: NDArray[Any] = np.linspace(0.0, 1.0, 101)
"""Recalls at which COCO takes the precision, as pycocotools computes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryMatches:
    """The D detections of one category in all I images, in the order in which COCO takes them.

    That is by falling score, equal scores by image id, at most 100 an image.
    """

    category_id: int
    images: NDArray[Any]
    """int64 [D], position in `Matches.image_ids`."""
    scores: NDArray[Any]
    """float64 [D]."""
    matched: NDArray[Any]
    """bool [T, D]: overlaps a truth that no better detection has, at IoU threshold t."""
    ignored: NDArray[Any]
    """bool [T, D]: counts neither as hit nor as miss, because its truth is ignored (a crowd)."""
    num_truths: NDArray[Any]
    """int64 [I]: truths of each image that count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """All categories' matches over objects of every area, at T IoU thresholds (0.50:0.95)."""

    image_ids: NDArray[Any]
    """int64 [I], rising."""
    categories: tuple[CategoryMatches, ...]


def weighted_map(matches: Matches, weights: NDArray[Any]) -> NDArray[Any]:
    """Return COCO's mAP, float64 [N], of N samples in which image i is there weights[n, i] times.

    `weights` are whole numbers >= 0 [N, I]. NaN where a sample holds no truth. With all weights
    one this is pycocotools' own figure. An image that is there w times has its detections w times
    side by side in the sorted list. Costs N D + 10 N P additions for D detections, P of them hits.
    """
    sums = np.zeros(len(weights))
    counts = np.zeros(len(weights))
    for category in matches.categories:
        step = max(1, _VALUES_AT_ONCE // max(1, len(category.scores)))
        for first in range(0, len(weights), step):
            here = slice(first, first + step)
            precision = _average_precision(category, weights[here].astype(np.float64))
            known = ~np.isnan(precision)
            sums[here][known] += precision[known]
            counts[here] += known
    return np.divide(sums, counts, out=np.full(len(weights), np.nan), where=counts > 0)


def map_of_images(matches: Matches, image_ids: Collection[int]) -> float:
    """Return the mAP of some of the images, as if there were no others; NaN: no truths."""
    chosen = np.isin(matches.image_ids, list(image_ids))
    return float(weighted_map(matches, chosen[None])[0])


def map_per_image(matches: Matches) -> NDArray[Any]:
    """Return each image's mAP as if it were the whole data set, float64 [I]; NaN: no truths."""
    sums = np.zeros(len(matches.image_ids))
    counts = np.zeros(len(matches.image_ids))
    for category in matches.categories:
        order = np.argsort(category.images, kind="stable")
        held = np.flatnonzero(category.num_truths)
        starts = np.searchsorted(category.images[order], held, side="left")
        ends = np.searchsorted(category.images[order], held, side="right")
        for image, start, end in zip(held.tolist(), starts.tolist(), ends.tolist(), strict=True):
            rows = order[start:end]
            alone = CategoryMatches(
                category_id=category.category_id,
                images=np.zeros(len(rows), dtype=np.int64),
                scores=category.scores[rows],
                matched=category.matched[:, rows],
                ignored=category.ignored[:, rows],
                num_truths=category.num_truths[[image]],
            )
            sums[image] += _average_precision(alone, np.ones((1, 1)))[0]
            counts[image] += 1
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def ap_per_category(matches: Matches) -> dict[int, float]:
    """Return category id -> AP (0.50:0.95) over all images; NaN for one without truths."""
    once = np.ones((1, len(matches.image_ids)))
    return {each.category_id: float(_average_precision(each, once)[0])
            for each in matches.categories}  # fmt: skip


def _average_precision(category: CategoryMatches, weights: NDArray[Any]) -> NDArray[Any]:
    """Return the AP of one category, mean over the IoU thresholds, [N]; NaN without truths.

    As COCOeval.accumulate: precision made to fall, taken where recall first reaches each of 101
    values. Only hits raise the recall, so only the entries at hits are ever looked at.
    """
    num_truths = weights @ category.num_truths
    of_detection = weights[:, category.images]
    everything = np.cumsum(of_detection, axis=1)
    total = np.zeros(len(weights))
    for matched, ignored in zip(category.matched, category.ignored, strict=True):
        hits = np.flatnonzero(matched & ~ignored)
        if not len(hits):
            continue
        counted = (
            np.cumsum(of_detection * ~ignored, axis=1)[:, hits]
            if ignored.any()
            else everything[:, hits]
        )
        found = np.cumsum(of_detection[:, hits], axis=1)
        precision = found / (counted + np.spacing(1))
        falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        with np.errstate(invalid="ignore"):
            recall = found / num_truths[:, None]
        reached = np.searchsorted(RECALLS, recall, side="right")
        total += (falling * np.diff(reached, axis=1, prepend=0)).sum(axis=1)
    result = total / (len(RECALLS) * len(category.matched))
    return np.where(num_truths > 0, result, np.nan)


def matches_of(evaluation: Any) -> Matches:
    """Return the matches of a pycocotools COCOeval after `evaluate()`."""
    settings = evaluation.params
    num_images = len(settings.imgIds)
    per_category = num_images * len(settings.areaRng)
    assert settings.areaRngLbl[0] == "all", "the first range of areas is that of all objects"
    assert np.array_equal(settings.recThrs, RECALLS), "COCO's own recalls"
    return Matches(
        image_ids=np.array(settings.imgIds, dtype=np.int64),
        categories=tuple(
            _category(
                int(category_id),
                evaluation.evalImgs[row * per_category : row * per_category + num_images],
                len(settings.iouThrs),
                settings.maxDets[-1],
            )
            for row, category_id in enumerate(settings.catIds)
        ),
    )


def _category(
    category_id: int,
    per_image: Sequence[dict[str, Any] | None],
    num_thresholds: int,
    max_detections: int,
) -> CategoryMatches:
    num_truths = np.zeros(len(per_image), dtype=np.int64)
    images, scores = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    matched = [np.zeros((num_thresholds, 0), dtype=np.bool_)]
    ignored = [np.zeros((num_thresholds, 0), dtype=np.bool_)]
    for position, entry in enumerate(per_image):
        if entry is None:
            continue
        num_truths[position] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
        taken = np.array(entry["dtScores"][:max_detections], dtype=np.float64)
        scores.append(taken)
        images.append(np.full(len(taken), position, dtype=np.int64))
        matched.append(np.asarray(entry["dtMatches"])[:, :max_detections] != 0)
        ignored.append(np.asarray(entry["dtIgnore"])[:, :max_detections].astype(np.bool_))
    all_scores = np.concatenate(scores)
    order = np.argsort(-all_scores, kind="stable")
    return CategoryMatches(
        category_id=category_id,
        images=np.concatenate(images)[order],
        scores=all_scores[order],
        matched=np.concatenate(matched, axis=1)[:, order],
        ignored=np.concatenate(ignored, axis=1)[:, order],
        num_truths=num_truths,
    )
