"""Run a torchvision detector's heads on given feature maps; the backbone is never run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class CachedBackbone(nn.Module):
    """Stands where the backbone was: ignores the image, returns the levels it was given."""

    def __init__(self, levels: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.levels = OrderedDict(levels)

    def forward(self, _images: Tensor) -> OrderedDict[str, Tensor]:
        """Return key -> [1, C, H, W], finest first."""
        return self.levels


@contextmanager
def cached_backbone(detector: nn.Module, levels: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block, `detector` sees `levels` as its backbone's output, and draws no masks."""
    real = detector.backbone
    heads = getattr(detector, "roi_heads", None)
    mask_pool = getattr(heads, "mask_roi_pool", None)
    detector.backbone = CachedBackbone(levels)
    if heads is not None and mask_pool is not None:
        # Boxes alone are evaluated; pasting masks into the image would take most of the time.
        heads.mask_roi_pool = None
    try:
        yield
    finally:
        detector.backbone = real
        if heads is not None and mask_pool is not None:
            heads.mask_roi_pool = mask_pool


@torch.no_grad()
def detect_from_levels(
    detector: nn.Module, levels: Mapping[str, Tensor], original_hw: tuple[int, int]
) -> dict[str, Tensor]:
    """Return one image's `boxes` float32 [N, 4] xyxy px, `labels` int64 [N], `scores` [N], on CPU.

    `levels` are key -> [1, C, H, W] of any float dtype, in the backbone's order; `original_hw` is
    the image's size before resizing. The detector must be in eval mode.
    """
    device = next(detector.parameters()).device
    # Only the image's size matters: the transform derives the padded input and the anchors from it.
    image = torch.zeros(3, *original_hw, device=device)
    features = {key: tensor.to(device, torch.float32) for key, tensor in levels.items()}
    with cached_backbone(detector, features):
        result: dict[str, Tensor] = detector([image])[0]
    return {name: result[name].cpu() for name in ("boxes", "labels", "scores")}


@torch.no_grad()
def backbone_keys(detector: nn.Module) -> tuple[str, ...]:
    """Return the keys of all levels that the heads expect, finest first."""
    device = next(detector.parameters()).device
    backbone = detector.backbone
    assert isinstance(backbone, nn.Module)
    return tuple(backbone(torch.zeros(1, 3, 64, 64, device=device)))
