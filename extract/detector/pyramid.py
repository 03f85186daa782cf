"""Measure a detector's feature pyramid: levels, strides, channels, map shapes, derived levels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from configs.errors import ConfigError
from data.cache.manifest_parts import LevelInfo
from data.cache.plan import LevelShapes
from extract.detector.loading import backbone_levels

_PROBE_PX = 1024  # every usual stride (up to 1024) divides it, so its maps give strides exactly

# On the meta device torch runs these in Python, an operation at a time: most of what a shape costs.
_ELEMENTWISE = frozenset({
    nn.BatchNorm2d, FrozenBatchNorm2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.Hardsigmoid
})  # fmt: skip


def level_shapes(model: Any) -> LevelShapes:
    """Return a function (padded height, width) -> {level: (H, W)}; see `shapes_by_key`."""
    shapes_of = shapes_by_key(model)

    @cache
    def by_level(height_px: int, width_px: int) -> Mapping[int, tuple[int, int]]:
        return dict(enumerate(shapes_of(height_px, width_px).values()))

    return by_level


def shapes_by_key(model: Any) -> Callable[[int, int], Mapping[str, tuple[int, int]]]:
    """Return a function (padded height, width) -> {the level's key: (H, W)}, finest first.

    Shapes come from a copy of the backbone on torch's meta device: nothing is computed.
    """
    weights = (*model.backbone.parameters(), *model.backbone.buffers())
    # Named as copies that are made already: none of the real ones is.
    made = {id(each): _without_data(each) for each in weights}
    hollow = copy.deepcopy(model.backbone, made)
    for module in hollow.modules():
        if type(module) in _ELEMENTWISE:
            module.forward = _unchanged

    @cache
    def shapes_of(height_px: int, width_px: int) -> Mapping[str, tuple[int, int]]:
        with torch.inference_mode():
            maps = hollow(torch.empty(1, 3, height_px, width_px, device="meta"))
        named = {"0": maps} if isinstance(maps, Tensor) else maps
        return {key: (int(t.shape[-2]), int(t.shape[-1])) for key, t in named.items()}

    return shapes_of


def _without_data(weights: Tensor) -> Tensor:
    hollow = torch.empty_like(weights, device="meta")
    is_parameter = isinstance(weights, nn.Parameter)
    return nn.Parameter(hollow, requires_grad=False) if is_parameter else hollow


def _unchanged(x: Tensor) -> Tensor:
    return x


def measure_levels(model: Any, batch: Tensor, shapes_of: LevelShapes) -> list[LevelInfo]:
    """Return the detector's levels, finest first, from one real batch [1, 3, H, W] float32.

    A level is `derived_from` the one before if it equals that one's [::2, ::2] bit for bit.
    Raises ConfigError if a level is finer than the one before it.
    """
    with torch.inference_mode():
        maps = list(backbone_levels(model, batch).items())
    shapes = shapes_of(_PROBE_PX, _PROBE_PX)
    levels = []
    for index, (key, features) in enumerate(maps):
        before = maps[index - 1][1] if index else None
        derived = before is not None and torch.equal(features, before[:, :, ::2, ::2])
        levels.append(
            LevelInfo(
                index=index,
                key=key,
                stride_px=_PROBE_PX // shapes[index][0],
                num_channels=int(features.shape[1]),
                derived_from=index - 1 if derived else None,
            )
        )
    strides = [level.stride_px for level in levels]
    # Equal strides are allowed: torchvision's MobileNetV3 pyramid has 32, 32, 64.
    if strides != sorted(strides):
        raise ConfigError(
            f"detector.builder: its backbone's levels have strides {strides}: "
            "a feature pyramid, finest first, is needed"
        )
    return levels
