"""RoIAlign by rows: the same values as torchvision's, several times as fast on a CPU.

torchvision's CPU kernel (He et al. 2017, Mask R-CNN, section 3) computes one value at a time on one
core, and is half of what an R-CNN's heads cost. With channels last, a bin is a weighted sum of rows
of C values, which is what `embedding_bag` computes, vectorised, on all cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import MultiScaleRoIAlign


def roi_align_by_rows(
    features: Tensor, boxes: Tensor, *, side: int, scale: float, samples: int
) -> Tensor:
    """Return float32 [K, C, side, side] for boxes [K, 4] xyxy px of one image's map [1, C, H, W].

    `samples` points are taken along each side of a bin; the same as
    torchvision.ops.roi_align(..., spatial_scale=scale, sampling_ratio=samples, aligned=False) but
    for the order of additions.
    """
    num_channels, height, width = features.shape[1:]
    rows = features[0].permute(1, 2, 0).reshape(height * width, num_channels)
    left, top, right, bottom = (boxes * scale).unbind(1)
    y_places, y_weights = _along(top, (bottom - top).clamp(min=1.0), side, samples, height)
    x_places, x_weights = _along(left, (right - left).clamp(min=1.0), side, samples, width)
    shape = (len(boxes) * side * side, -1)
    places = (y_places[:, :, None, :, None] * width + x_places[:, None, :, None, :]).reshape(shape)
    weights = (y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]).reshape(shape)
    pooled = functional.embedding_bag(places, rows, per_sample_weights=weights, mode="sum")
    return pooled.view(len(boxes), side, side, num_channels).permute(0, 3, 1, 2)


def _along(
    start: Tensor, length: Tensor, side: int, samples: int, limit: int
) -> tuple[Tensor, Tensor]:
    """Return int32 positions and float32 weights [K, side, 2 * samples] along one axis."""
    bin_length = (length / side)[:, None]
    number = torch.arange(side * samples, device=start.device)
    # In torchvision's order of operations, so that rounding falls the same way.
    in_bin = (number % samples + 0.5) * bin_length / samples
    places = start[:, None] + number.div(samples, rounding_mode="floor") * bin_length + in_bin
    inside = (places >= -1.0) & (places <= limit)
    places = places.clamp(min=0.0)
    low = places.floor().clamp(max=limit - 1)
    share = torch.where(low >= limit - 1, 0.0, places - low)
    high = (low + 1).clamp(max=limit - 1)
    mean = inside / samples
    weights = torch.stack([(1 - share) * mean, share * mean], dim=-1)
    positions = torch.stack([low, high], dim=-1).int()
    return positions.view(len(start), side, -1), weights.view(len(start), side, -1)


def pooled_maps(
    pool: Any, x: Mapping[str, Tensor], box: Tensor, image_shapes: Sequence[Any]
) -> tuple[list[Tensor], Tensor]:
    """Return the maps that a MultiScaleRoIAlign looks at, and which of them each box [K, 4] is on.

    It learns its scales from the first image, if it has seen none.
    """
    if pool.scales is None:
        pool(x, [box[:1]], image_shapes)
    maps = [features for key, features in x.items() if key in pool.featmap_names]
    level_of = pool.map_levels([box]) if len(maps) > 1 else torch.zeros(len(box), dtype=torch.int64)
    return maps, level_of


class RoIAlignByRows(nn.Module):
    """Stands where a MultiScaleRoIAlign of one image's maps was."""

    def __init__(self, pool: MultiScaleRoIAlign) -> None:
        super().__init__()
        self.pool: Any = pool

    def forward(
        self, x: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: Sequence[Any]
    ) -> Tensor:
        """Return [K, C, side, side] for the boxes [K, 4] of one image."""
        pool = self.pool
        (side, _), (box,) = pool.output_size, boxes
        maps, level_of = pooled_maps(pool, x, box, image_shapes)
        pooled = box.new_empty((len(box), maps[0].shape[1], side, side))
        for level, (features, scale) in enumerate(zip(maps, pool.scales, strict=True)):
            here = torch.nonzero(level_of == level)[:, 0]
            if len(here):
                pooled[here] = roi_align_by_rows(
                    features, box[here], side=side, scale=scale, samples=pool.sampling_ratio
                )
        return pooled


@contextmanager
def fast_pooling(detector: Any) -> Iterator[None]:
    """Within the block an R-CNN on a CPU pools by rows; other detectors stay as they are."""
    heads: Any = getattr(detector, "roi_heads", None)
    pool: Any = getattr(heads, "box_roi_pool", None)
    on_cpu = next(detector.parameters()).device.type == "cpu"
    square = isinstance(pool, MultiScaleRoIAlign) and len(set(pool.output_size)) == 1
    if not (on_cpu and square and pool.sampling_ratio > 0):
        yield
        return
    heads.box_roi_pool = RoIAlignByRows(pool)
    try:
        yield
    finally:
        heads.box_roi_pool = pool
