"""Detectors of torchvision's three kinds with heads so small that a test can ask them all."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from data.cache.manifest_parts import LevelInfo
from extract.detector.pyramid import shapes_by_key
from train.objective.level_heads import FrozenHeads, LevelHeads

NUM_CHANNELS = 32
KINDS = ("faster_rcnn", "retinanet", "fcos")
_FINEST_STRIDE = 8


class _Pyramid(nn.Module):
    """Levels of strides 8, 16, ... of one convolution."""

    out_channels = NUM_CHANNELS

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, NUM_CHANNELS, _FINEST_STRIDE, _FINEST_STRIDE)
        self.num_levels = num_levels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        levels = [self.conv(images)]
        while len(levels) < self.num_levels:
            levels.append(functional.max_pool2d(levels[-1], 2))
        return OrderedDict((str(index), maps) for index, maps in enumerate(levels))


def tiny_detector(kind: str, num_levels: int = 2) -> Any:
    """Return a detector of seeded random weights, frozen, of three classes and the background.

    Its answers differ from place to place, which freshly initialised heads' hardly do.
    """
    backbone = _Pyramid(num_levels)
    sizes = tuple((2 * _FINEST_STRIDE * 2**index,) for index in range(num_levels))
    common = {"num_classes": 4, "min_size": 64, "max_size": 96}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "faster_rcnn":
            names = [str(index) for index in range(num_levels)]
            del common["num_classes"]
            model: Any = FasterRCNN(
                backbone,
                rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * num_levels),
                box_roi_pool=MultiScaleRoIAlign(names, 3, 2, canonical_scale=48, canonical_level=4),
                box_head=TwoMLPHead(NUM_CHANNELS * 9, 16),
                box_predictor=FastRCNNPredictor(16, 4),
                **common,
            )
        elif kind == "retinanet":
            ratios = ((0.5, 1.0, 2.0),) * num_levels
            model = RetinaNet(backbone, anchor_generator=AnchorGenerator(sizes, ratios), **common)
        else:
            strides = tuple((_FINEST_STRIDE * 2**index,) for index in range(num_levels))
            generator = AnchorGenerator(strides, ((1.0,),) * num_levels)
            model = FCOS(backbone, anchor_generator=generator, **common)
        for name, values in model.named_parameters():
            if values.ndim > 1 and "backbone" not in name:
                nn.init.kaiming_normal_(values)
    return model.eval().requires_grad_(False)


def frozen(model: Any) -> FrozenHeads:
    """Return the heads of a detector."""
    return FrozenHeads(model=model, classes=None, shapes_of=shapes_by_key(model))


def heads_of(model: Any, index: int = 0) -> LevelHeads:
    """Return a detector's heads as they see one of its levels."""
    stride = _FINEST_STRIDE * 2**index
    level = LevelInfo(
        index=index, key=str(index), stride_px=stride, num_channels=NUM_CHANNELS, derived_from=None
    )
    return LevelHeads(frozen(model), level, "training.distortion detector")


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    """Return seeded maps float32 of a shape, the channels the tiny detectors' own."""
    batch, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, NUM_CHANNELS, height, width, generator=generator)
