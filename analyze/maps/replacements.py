"""What a receiver can put in place of a level for which no bit was sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from analyze.maps.map_source import MapSource, as_batch
from data.reading.level_reader import LevelReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivation:
    """How a detector's own pyramid computes a level from another level of it alone."""

    source_level: int
    function: Callable[[Tensor], Tensor]
    """Source map float32 [1, C, H, W] on the detector's device -> this level's."""


class CachedMaps:
    """A level as it lies in the cache."""

    def __init__(self, reader: LevelReader) -> None:
        self._reader = reader

    def read(self, index: int) -> NDArray[Any]:
        """Return the map of sample `index`, [H, W, C] in the stored dtype, a read-only view."""
        return self._reader.sample(index)


class DroppedMaps:
    """A level that is not sent: each channel is its mean everywhere."""

    def __init__(self, reader: LevelReader, mean: NDArray[Any]) -> None:
        """Take shapes from the reader; the receiver has to know the mean, float32 [C]."""
        self._reader = reader
        self._mean = mean

    def read(self, index: int) -> NDArray[Any]:
        """Return the map of sample `index`, float32 [H, W, C], a read-only view."""
        return np.broadcast_to(self._mean, self._reader.shape(index))


class DerivedMaps:
    """A level that is computed from what the receiver has of another level."""

    def __init__(self, source: MapSource, derivation: Derivation, device: str = "cpu") -> None:
        """Take the maps of the derivation's source level: cached, decoded, or derived in turn."""
        self._source = source
        self._function = derivation.function
        self._device = device

    @torch.no_grad()
    def read(self, index: int) -> NDArray[Any]:
        """Return the map of sample `index`, float32 [H, W, C]."""
        derived = self._function(as_batch(self._source.read(index)).to(self._device))
        maps: NDArray[Any] = derived[0].permute(1, 2, 0).cpu().numpy()
        return maps


def derivations(detector: nn.Module, keys: Sequence[str]) -> dict[int, Derivation]:
    """Return level -> derivation for every level that needs one other level of the pyramid alone.

    `keys` are those of all levels, finest first. torchvision's `pool` is the level before it
    subsampled by 2 (Lin et al. 2017, Feature Pyramid Networks, footnote on P6); RetinaNet's and
    FCOS's p6 and p7 are convolutions of stride 2 (Lin et al. 2017, Focal Loss, section 4), p6 of
    the level p5, or of the body's C5, which no receiver has: then only p7 can be derived.
    """
    block = getattr(getattr(getattr(detector, "backbone", None), "fpn", None), "extra_blocks", None)
    level_of = {key: level for level, key in enumerate(keys)}
    found: dict[int, Derivation] = {}
    if isinstance(block, LastLevelMaxPool) and level_of.get("pool", 0) > 0:
        source = level_of["pool"] - 1
        found[source + 1] = Derivation(source_level=source, function=_subsampled)
    if isinstance(block, LastLevelP6P7) and "p6" in level_of:
        p6 = level_of["p6"]
        if block.use_P5 and p6 > 0:
            found[p6] = Derivation(source_level=p6 - 1, function=block.p6)
        if "p7" in level_of:
            found[level_of["p7"]] = Derivation(
                source_level=p6, function=partial(_rectified, block.p7)
            )
    return found


def _subsampled(maps: Tensor) -> Tensor:
    return maps[:, :, ::2, ::2]


def _rectified(convolution: nn.Module, maps: Tensor) -> Tensor:
    result: Tensor = convolution(functional.relu(maps))
    return result
