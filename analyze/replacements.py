"""Levels that cost no bits: replaced by their mean, or computed from another level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from analyze.map_source import MapSource
from data.reader import LevelReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivation:
    """How a decoder computes a level from another one of the same pyramid, as the FPN does."""

    source_level: int
    function: Callable[[Tensor], Tensor]
    """float32 [1, C, H, W] of the source to that of the level."""


class CachedMaps:
    """A level as it lies in the cache."""

    def __init__(self, reader: LevelReader) -> None:
        self._reader = reader

    def read(self, index: int) -> NDArray[Any]:
        """Return the map, [H, W, C] in the stored dtype."""
        return self._reader.sample(index)


class DroppedMaps:
    """A level that is not sent: every position holds the cache's mean of its channel."""

    def __init__(self, reader: LevelReader) -> None:
        self._mean = reader.statistics.mean.astype(np.float32)
        self._reader = reader

    def read(self, index: int) -> NDArray[Any]:
        """Return the mean as a map, float32 [H, W, C]."""
        return np.broadcast_to(self._mean, self._reader.shape(index))


class DerivedMaps:
    """A level that the decoder computes from another level's maps."""

    def __init__(self, derivation: Derivation, source: MapSource) -> None:
        self._function = derivation.function
        self._source = source

    def read(self, index: int) -> NDArray[Any]:
        """Return the computed map, float32 [H, W, C]."""
        values = np.array(self._source.read(index), dtype=np.float32)
        with torch.inference_mode():
            computed = self._function(torch.from_numpy(values).permute(2, 0, 1)[None])
        derived: NDArray[Any] = computed[0].permute(1, 2, 0).cpu().numpy()
        return derived


def derivations(detector: Any, keys: Mapping[int, str]) -> dict[int, Derivation]:
    """Return level -> how it follows from another level; `keys` are level -> FPN key.

    Faster and Mask R-CNN: `pool` is every other row and column of the level before it
    (LastLevelMaxPool). RetinaNet and FCOS: `p7` is a convolution of `p6`, and `p6` one of the last
    lateral level where the FPN says `use_P5`; made from the backbone's C5, it cannot be derived.
    """
    extra = getattr(getattr(detector.backbone, "fpn", None), "extra_blocks", None)
    level_of = {key: level for level, key in keys.items()}
    found: dict[int, Derivation] = {}
    if isinstance(extra, LastLevelMaxPool) and "pool" in level_of:
        last = level_of["pool"]
        if last - 1 in keys:
            found[last] = Derivation(source_level=last - 1, function=_every_other)
    elif isinstance(extra, LastLevelP6P7):
        if {"p6", "p7"} <= level_of.keys():
            found[level_of["p7"]] = Derivation(
                source_level=level_of["p6"], function=_p7_of(extra.p7)
            )
        if extra.use_P5 and "p6" in level_of and level_of["p6"] - 1 in keys:
            found[level_of["p6"]] = Derivation(
                source_level=level_of["p6"] - 1, function=_on_its_device(extra.p6)
            )
    return found


def _every_other(values: Tensor) -> Tensor:
    return functional.max_pool2d(values, kernel_size=1, stride=2)


def _p7_of(convolution: nn.Module) -> Callable[[Tensor], Tensor]:
    convolved = _on_its_device(convolution)
    return lambda values: convolved(functional.relu(values))


def _on_its_device(convolution: nn.Module) -> Callable[[Tensor], Tensor]:
    device = next(convolution.parameters()).device

    def compute(values: Tensor) -> Tensor:
        result: Tensor = convolution(values.to(device))
        return result

    return compute
