"""How much a detector's heads change their minds when one level changes, before any NMS.

mAP of some dozens of images moves in steps; what the heads say moves smoothly. For one image, the
change of a head is

    (sum over anchors and classes of (p' - p)^2 + sum over anchors of s |t' - t|^2) / sum of s

with class probabilities p, box offsets t as the head encodes them, and the anchor's score s, all of
them of the uncompressed levels but p' and t'; the sum of s is about the number of objects. Offsets
of anchors that nobody takes for an object so count nothing, as in a detector's own training. Heads
are added up: the RPN's and the box head's of an R-CNN (on the proposals of the uncompressed
levels, so that proposals do not jump), the one of RetinaNet or FCOS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class _Answer:
    """A head's classes [anchors, classes], boxes [anchors, 4 or classes x 4], scores [anchors]."""

    classes: Tensor
    boxes: Tensor
    scores: Tensor


class HeadResponse:
    """One image's answers on its own levels, against which a changed level is compared."""

    @torch.no_grad()
    def __init__(
        self,
        detector: Any,
        levels: Mapping[str, Tensor],
        original_hw: tuple[int, int],
        num_proposals: int,
    ) -> None:
        """Take levels key -> float32 [1, C, H, W] on the detector's device, finest first.

        Of an R-CNN's proposals only the first `num_proposals` are followed. Raises ConfigError for
        a detector that is no torchvision R-CNN, RetinaNet or FCOS.
        """
        self._detector = detector
        self._levels = dict(levels)
        self._two_stage = hasattr(detector, "rpn")
        if not self._two_stage and not hasattr(detector, "head"):
            raise ConfigError(
                f"detector.builder: sensitivity needs a torchvision R-CNN, RetinaNet or FCOS, and "
                f"{type(detector).__name__} has neither .rpn nor .head: leave sensitivity out"
            )
        self._dense = {key: self._dense_answer(maps) for key, maps in self._levels.items()}
        self._dense_total = sum(float(each.scores.sum()) for each in self._dense.values())
        if self._two_stage:
            device = next(iter(self._levels.values())).device
            images, _ = detector.transform([torch.zeros(3, *original_hw, device=device)])
            (proposals,), _ = detector.rpn(images, self._levels)
            self._proposals = [proposals[:num_proposals]]
            self._image_sizes = images.image_sizes
            logits, offsets = self._box_head(self._levels)
            # Each class has a box of its own: that of the class now thought best is followed.
            self._column = logits[:, 1:].argmax(1) + 1
            self._box = self._box_answer(logits, offsets)

    @torch.no_grad()
    def change(self, key: str, maps: Tensor) -> float:
        """Return the change with the level `key` replaced by `maps`, float32 [1, C, H, W]."""
        total = _difference(self._dense[key], self._dense_answer(maps)) / self._dense_total
        if self._two_stage and len(self._proposals[0]):
            answer = self._box_answer(*self._box_head({**self._levels, key: maps}))
            total += _difference(self._box, answer) / float(self._box.scores.sum())
        return total

    def _dense_answer(self, maps: Tensor) -> _Answer:
        if self._two_stage:
            (logits,), (offsets,) = self._detector.rpn.head([maps])
            scores = torch.sigmoid(logits)[0].flatten()
            anchors, height, width = logits.shape[1:]
            boxes = offsets[0].view(anchors, 4, height, width).transpose(0, 1)
            return _Answer(scores[:, None], boxes.reshape(4, -1).T, scores)
        out = self._detector.head([maps])
        classes = torch.sigmoid(out["cls_logits"][0])
        if "bbox_ctrness" in out:
            # FCOS scores a class by the geometric mean with its centre-ness (Tian et al. 2019).
            classes = torch.sqrt(classes * torch.sigmoid(out["bbox_ctrness"][0]))
        return _Answer(classes, out["bbox_regression"][0], classes.amax(1))

    def _box_head(self, levels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        heads = self._detector.roi_heads
        pooled = heads.box_roi_pool(levels, self._proposals, self._image_sizes)
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        return logits, offsets

    def _box_answer(self, logits: Tensor, offsets: Tensor) -> _Answer:
        classes = torch.softmax(logits, 1)
        rows = torch.arange(len(offsets), device=offsets.device)
        boxes = offsets.view(len(offsets), -1, 4)[rows, self._column]
        return _Answer(classes, boxes, classes[:, 1:].amax(1))


def _difference(clean: _Answer, changed: _Answer) -> float:
    classes = (changed.classes - clean.classes).square().sum(dtype=torch.float64)
    boxes = ((changed.boxes - clean.boxes).square().sum(1) * clean.scores).sum(dtype=torch.float64)
    return float(classes + boxes)


@contextmanager
def few_proposals(detector: Any, num_proposals: int) -> Iterator[None]:
    """Within the block an R-CNN passes at most so many proposals an image on to its box head."""
    counts = getattr(getattr(detector, "rpn", None), "_post_nms_top_n", None)
    usual = dict(counts) if counts is not None else {}
    if counts is not None:
        counts["testing"] = min(num_proposals, counts["testing"])
    try:
        yield
    finally:
        if counts is not None:
            counts.update(usual)
