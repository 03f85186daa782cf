"""The detector's own loss of one level's maps, from the cache's boxes through its frozen heads.

What a detector is trained by is cut down to what one level, or a crop of it, has its part in:

- Anchors are laid on all levels of the whole image and matched with all its boxes, as torchvision
  does; those of this level that lie on the map count. So an object of another level is none here.
- The RPN's loss is that of its anchors' draw, of which the expected value is taken: a draw would
  give the processes that share a batch random numbers of their own.
- The box head's boxes are, in place of proposals, for which all levels would be needed: the image's
  own that lie wholly on the map and that torchvision's rule looks for on this level, each of them
  shifted by a tenth of its sides, too, and tiles that cover the map.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import fastrcnn_loss

from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch
from train.objective.detector_distortion import maps_of_one_size
from train.objective.level_heads import DenseOutputs, FrozenHeads, LevelHeads
from train.objective.map_places import MapPlace, MapPlaces
from train.objective.rate_distortion import AnyDistortion, MapDistortion, distorted_sums

SETTING = "training.detection_loss"
_SHIFTS = ((0.0, 0.0), (0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1))
_SMOOTH_BELOW = 1 / 9  # torchvision's RPN


class WithDetectionLoss(MapDistortion):
    """A distortion and `weight` times the detection loss; training counts it `from_epoch` on.

    A map's loss counts as often as it has positions.
    """

    def __init__(
        self, distortion: AnyDistortion, heads: LevelHeads, places: MapPlaces, *,
        weight: float, from_epoch: int,
    ) -> None:  # fmt: skip
        self._distortion = distortion
        self._heads = heads
        self._places = places
        self._weight = weight
        self._from_epoch = from_epoch

    def sums(self, x_hat: Tensor, x: Tensor, batch: Batch) -> Tensor:
        """Return each map's error times its real positions and channels, float32 [B]."""
        losses = detection_losses(self._heads, x_hat, self._places.of(batch))
        num_values = (batch.sizes.prod(1) * x.shape[1]).to(x.device)
        error = distorted_sums(self._distortion, x_hat, x, batch)
        return error + self._weight * losses * num_values

    def of_cache(self, reader: LevelReader) -> WithDetectionLoss:
        """Return the same for maps of another cache of this level."""
        inner = self._distortion
        return WithDetectionLoss(
            inner.of_cache(reader) if isinstance(inner, MapDistortion) else inner,
            self._heads, self._places.of_cache(reader),
            weight=self._weight, from_epoch=self._from_epoch,
        )  # fmt: skip

    def in_epoch(self, epoch: int) -> AnyDistortion:
        """Return what training minimises in an epoch, counted from 1."""
        return self if epoch >= self._from_epoch else self._distortion


def with_detection_loss(
    distortion: AnyDistortion, heads: FrozenHeads, reader: LevelReader, device: str, *,
    weight: float, from_epoch: int,
) -> WithDetectionLoss:  # fmt: skip
    """Return a level's distortion with the loss of its maps.

    Raises ConfigError if the detector's heads are not known, or none of its classes is among the
    cache's; CacheError if the cache has no boxes.
    """
    level_heads = LevelHeads(heads, reader.info, SETTING)
    places = MapPlaces(reader, heads, device, with_labels=True)
    return WithDetectionLoss(distortion, level_heads, places, weight=weight, from_epoch=from_epoch)


def detection_losses(heads: LevelHeads, maps: Tensor, places: list[MapPlace]) -> Tensor:
    """Return the loss of each of the maps, float32 [B]; they are float32 [B, C, H, W]."""
    losses: dict[int, Tensor] = {}
    sizes = torch.tensor([(place.height, place.width) for place in places])
    for rows, height, width in maps_of_one_size(sizes):
        group = maps[rows, :, :height, :width]
        of_rows = [places[row] for row in rows]
        found = heads.dense(group)
        for number, (row, place) in enumerate(zip(rows, of_rows, strict=True)):
            losses[row] = _dense_loss(heads, found.of_map(number), place)
        if heads.pools:
            for row, loss in zip(rows, _box_losses(heads, group, of_rows), strict=True):
                losses[row] = losses[row] + loss
    return torch.stack([losses[row] for row in range(len(places))])


def _dense_loss(heads: LevelHeads, found: DenseOutputs, place: MapPlace) -> Tensor:
    """Return the loss of one map's anchors, of which `found` is what the head says."""
    detector = heads.detector
    levels = _anchors(heads, place)
    anchors = torch.cat(levels)
    shapes = heads.shapes_of(*place.padded_hw)
    number = list(shapes).index(heads.level.key)
    first = sum(len(each) for each in levels[:number])
    mine = slice(first, first + len(levels[number]))
    targets = [{"boxes": place.boxes, "labels": place.labels}]

    def on_map(values: Tensor) -> Tensor:
        """Cut what all anchors have, [N, ...], to those on the map, [n, ...]."""
        height, width = shapes[heads.level.key]
        grid = values[mine].reshape(height, width, -1, *values.shape[1:])
        rows = slice(place.top, place.top + place.height)
        return grid[rows, place.left : place.left + place.width].flatten(0, 2)

    if isinstance(detector, GeneralizedRCNN):
        rpn: Any = detector.rpn
        (labels,), (boxes,) = rpn.assign_targets_to_anchors([anchors], targets)
        (offsets,) = rpn.box_coder.encode([on_map(boxes)], [on_map(anchors)])
        return _expected_rpn_loss(rpn, found, on_map(labels), offsets)
    outputs = {"cls_logits": found.logits, "bbox_regression": found.deltas}
    if found.centreness is not None:
        outputs["bbox_ctrness"] = found.centreness
    matched = on_map(_matches(detector, targets, anchors, [len(each) for each in levels]))
    losses = detector.head.compute_loss(targets, outputs, [on_map(anchors)], [matched])
    total: Tensor = torch.stack(list(losses.values())).sum()
    return total


def _anchors(heads: LevelHeads, place: MapPlace) -> list[Tensor]:
    """Return the anchors of the whole image, float32 [n, 4] px of each level."""
    detector = heads.detector
    generator = (
        detector.rpn.anchor_generator
        if isinstance(detector, GeneralizedRCNN)
        else detector.anchor_generator
    )
    device = place.boxes.device
    shapes = [list(shape) for shape in heads.shapes_of(*place.padded_hw).values()]
    strides = [
        [torch.tensor(whole // part, device=device) for whole, part in zip(
            place.padded_hw, shape, strict=True
        )]
        for shape in shapes
    ]  # fmt: skip
    generator.set_cell_anchors(torch.float32, device)
    found: list[Tensor] = generator.grid_anchors(shapes, strides)
    return found


def _matches(
    detector: Any, targets: list[dict[str, Tensor]], anchors: Tensor, counts: list[int]
) -> Tensor:
    """Return which box each anchor is to find, int64 [N], by the detector's own rule.

    It is within its `compute_loss`, which hands what it found to the head: here, to one that gives
    it back.
    """
    asked = SimpleNamespace(
        head=SimpleNamespace(compute_loss=lambda _targets, _outputs, _anchors, matched: matched),
        **{
            name: getattr(detector, name)
            for name in ("proposal_matcher", "center_sampling_radius")
            if hasattr(detector, name)
        },
    )
    counted = [counts] if isinstance(detector, FCOS) else []
    (matched,) = type(detector).compute_loss(asked, targets, {}, [anchors], *counted)
    found: Tensor = matched
    return found


def _expected_rpn_loss(rpn: Any, found: DenseOutputs, labels: Tensor, offsets: Tensor) -> Tensor:
    """Return the mean of torchvision's loss over all draws of anchors.

    `labels` float32 [N]: 1 object, 0 background, -1 neither; `offsets` float32 [N, 4].
    """
    sampler = rpn.fg_bg_sampler
    positive, negative = labels >= 1, labels == 0
    most_positive = int(sampler.batch_size_per_image * sampler.positive_fraction)
    num_positive = positive.sum().clamp(max=most_positive)
    num_negative = torch.minimum(negative.sum(), sampler.batch_size_per_image - num_positive)
    drawn = (
        positive * (num_positive / positive.sum().clamp(min=1))
        + negative * (num_negative / negative.sum().clamp(min=1))
    )  # fmt: skip
    objectness = functional.binary_cross_entropy_with_logits(
        found.logits[0, :, 0], labels.clamp(min=0), reduction="none"
    )
    boxes = functional.smooth_l1_loss(
        found.deltas[0], offsets, beta=_SMOOTH_BELOW, reduction="none"
    ).sum(1)
    total = (drawn * (objectness + torch.where(positive, boxes, 0.0))).sum()
    return total / (num_positive + num_negative).clamp(min=1)


def _box_losses(heads: LevelHeads, maps: Tensor, places: list[MapPlace]) -> list[Tensor]:
    """Return the box head's loss of each of the maps, all of one size."""
    box_heads, stride = heads.detector.roi_heads, heads.level.stride_px
    tiles = heads.tiles(maps.shape[-2], maps.shape[-1], maps.device)
    seen = [torch.cat([_about_boxes(heads, place), tiles]) for place in places]
    counts = [len(each) for each in seen]
    logits, offsets = box_heads.box_predictor(heads.pooled(maps, seen))
    losses = []
    answers = zip(logits.split(counts), offsets.split(counts), strict=True)
    for place, on_map, (its_logits, its_offsets) in zip(places, seen, answers, strict=True):
        boxes = place.in_image(on_map, stride)
        (matched,), (labels,) = box_heads.assign_targets_to_proposals(
            [boxes], [place.boxes], [place.labels]
        )
        there = place.boxes[matched] if len(place.boxes) else boxes
        targets = box_heads.box_coder.encode([there], [boxes])
        kept = labels >= 0
        parts = fastrcnn_loss(
            its_logits[kept], its_offsets[kept], [labels[kept]], [targets[0][kept]]
        )
        losses.append(torch.stack(parts).sum())
    return losses


def _about_boxes(heads: LevelHeads, place: MapPlace) -> Tensor:
    """Return an image's boxes of this level on the map, and shifted ones, float32 [K, 4] px."""
    boxes = place.boxes[heads.looked_at_here(place.boxes)]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shifted = [boxes + sides * boxes.new_tensor(shift).repeat(2) for shift in _SHIFTS]
    return place.inside(torch.cat(shifted), heads.level.stride_px)
