"""What a detector's frozen heads make of the maps of one level; its backbone is let go of.

The dense head looks at levels one by one, and a box head at boxes one by one, each on one level
(Lin et al. 2017, Feature Pyramid Networks, equation 1): so a level alone is enough for its part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from configs.errors import ConfigError
from configs.schema.config import Config
from data.cache.manifest_parts import LevelInfo
from data.reading.level_reader import LevelReader

_PROBE_PX = 1024  # every usual stride divides it


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenHeads:
    """A detector without its backbone, what its labels are, and its pyramid's shapes."""

    model: Any
    classes: tuple[str, ...] | None
    shapes_of: Callable[[int, int], Mapping[str, tuple[int, int]]]
    """Of an image's padded (height, width) px: the level's key -> (H, W), finest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseOutputs:
    """What a dense head says of each anchor, float32, by position (row by row), then by anchor."""

    logits: Tensor
    """[B, N, classes]; of an RPN one, that of an object."""
    deltas: Tensor
    """[B, N, 4]"""
    centreness: Tensor | None = None
    """[B, N, 1], of FCOS."""

    @property
    def scores(self) -> Tensor:
        """How likely an anchor has an object of any class, [B, N]."""
        return torch.sigmoid(self.logits.amax(2))

    def of_map(self, row: int, where: Tensor | slice = slice(None)) -> DenseOutputs:
        """Return what is said of some anchors of one of the maps, as a batch of one."""
        kept, rows = self.centreness, slice(row, row + 1)
        return DenseOutputs(
            logits=self.logits[rows, where],
            deltas=self.deltas[rows, where],
            centreness=None if kept is None else kept[rows, where],
        )


class LevelHeads:
    """The heads as they see one level; `setting` is the one that asks for them."""

    def __init__(self, heads: FrozenHeads, level: LevelInfo, setting: str) -> None:
        """Raise ConfigError if the detector is none of torchvision's kinds with known heads."""
        if not isinstance(heads.model, GeneralizedRCNN | RetinaNet | FCOS):
            raise ConfigError(
                f"{setting}: needs a torchvision R-CNN, RetinaNet or FCOS, and detector.builder "
                f"gives a {type(heads.model).__name__}: leave it out"
            )
        self.detector: Any = heads.model
        self.level = level
        self.shapes_of = heads.shapes_of
        self._mapper, self._place = self._box_levels()

    @property
    def pools(self) -> bool:
        """Whether there is a box head that looks at boxes on this level."""
        return self._mapper is not None

    def dense(self, maps: Tensor) -> DenseOutputs:
        """Return what the dense head says of maps float32 [B, C, H, W]."""
        if isinstance(self.detector, GeneralizedRCNN):
            logits, deltas = self.detector.rpn.head([maps])
            flat_logits, flat_deltas = concat_box_prediction_layers(logits, deltas)
            return DenseOutputs(
                logits=flat_logits.view(len(maps), -1, 1), deltas=flat_deltas.view(len(maps), -1, 4)
            )
        found = self.detector.head([maps])
        return DenseOutputs(
            logits=found["cls_logits"],
            deltas=found["bbox_regression"],
            centreness=found.get("bbox_ctrness"),
        )

    def pooled(self, maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Return the box head's representation of boxes, float32 [K, F], K of all maps together.

        `boxes`: of each of the maps float32 [B, C, H, W], [k, 4] xyxy px from the map's corner on.
        """
        pool = self.detector.roi_heads.box_roi_pool
        aligned = roi_align(
            maps,
            list(boxes),
            pool.output_size,
            spatial_scale=1 / self.level.stride_px,
            sampling_ratio=pool.sampling_ratio,
        )
        representation: Tensor = self.detector.roi_heads.box_head(aligned)
        return representation

    def object_scores(self, representation: Tensor) -> Tensor:
        """Return how likely boxes have an object of any class, [K]."""
        logits, _ = self.detector.roi_heads.box_predictor(representation)
        return 1 - functional.softmax(logits, 1)[:, 0]

    def looked_at_here(self, boxes: Tensor) -> Tensor:
        """Return which boxes [K, 4] xyxy px the box head looks at on this level, bool [K]."""
        if self._mapper is None or not len(boxes):
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        here: Tensor = self._mapper([boxes]) == self._place
        return here

    def tiles(self, height: int, width: int, device: torch.device) -> Tensor:
        """Return boxes that together cover a map, [K, 4] xyxy px, about as large as those here.

        That is the middle of the sizes that the box head looks at on this level.
        """
        assert self._mapper is not None, "of a level that has boxes"
        stride = self.level.stride_px
        level = self._mapper.k_min + self._place
        side_px = self._mapper.s0 * 2 ** (level - self._mapper.lvl0 + 0.5)
        num_rows, num_columns = (max(1, round(n * stride / side_px)) for n in (height, width))
        rows = torch.linspace(0, height * stride, num_rows + 1, device=device)
        columns = torch.linspace(0, width * stride, num_columns + 1, device=device)
        top, left = torch.meshgrid(rows[:-1], columns[:-1], indexing="ij")
        bottom, right = torch.meshgrid(rows[1:], columns[1:], indexing="ij")
        return torch.stack([left, top, right, bottom], dim=-1).view(-1, 4)

    def _box_levels(self) -> tuple[LevelMapper | None, int]:
        """Return torchvision's rule of which box is pooled on which level, and this one's place."""
        pool = getattr(getattr(self.detector, "roi_heads", None), "box_roi_pool", None)
        if not isinstance(pool, MultiScaleRoIAlign):
            return None, 0
        shapes = self.shapes_of(_PROBE_PX, _PROBE_PX)
        pooled = [key for key in shapes if key in pool.featmap_names]
        if self.level.key not in pooled:
            return None, 0
        finest, coarsest = (
            round(math.log2(_PROBE_PX / shapes[key][0])) for key in (pooled[0], pooled[-1])
        )
        mapper = LevelMapper(finest, coarsest, pool.canonical_scale, pool.canonical_level)
        return mapper, pooled.index(self.level.key)


def frozen_heads(config: Config, readers: Sequence[LevelReader], device: str) -> FrozenHeads:
    """Load the detector in eval mode, without gradients of its own, and let its backbone go.

    Raises ConfigError if it cannot be had, CacheError if it is not the one that made the caches.
    """
    # Late: training has no other use for a detector.
    from extract.detector.freshness import refuse_other_detector
    from extract.detector.loading import load_detector
    from extract.detector.pyramid import shapes_by_key

    detector = load_detector(config.detector, device)
    for reader in readers:
        refuse_other_detector(reader.manifest, reader.cache, detector, config.detector)
    shapes_of = shapes_by_key(detector.model)
    detector.model.backbone = nn.Identity()
    return FrozenHeads(model=detector.model, classes=detector.classes, shapes_of=shapes_of)
