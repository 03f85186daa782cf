"""What may stand in place of a level: derived, dropped, or with the errors of an ideal codec.

The optimum test channel of a Gaussian source (Cover and Thomas 2006, section 10.3): a channel of
mean m and variance v that is sent with squared error d <= v is decoded as
m + (1 - d / v) (x - m) + noise of variance d (1 - d / v); d = v is the mean alone. Over channels
the errors are those of reverse water-filling (section 10.3.3): d = min(t, v), with t such that
their mean is the MSE asked for.
"""

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


def water_filled(variance: NDArray[Any], total: float) -> NDArray[Any]:
    """Return errors min(t, variance), float64 [C], of sum `total`; all of `variance` if less."""
    rising = np.sort(variance)
    # With t between two variances, those below count whole and the others t each.
    below = np.concatenate([[0.0], np.cumsum(rising)[:-1]])
    waters = (total - below) / np.arange(len(rising), 0, -1)
    between = waters <= rising
    if not between.any():  # the sum of all, or more; by one rounding or another
        return variance.astype(np.float64)
    water = waters[np.argmax(between)]
    filled: NDArray[Any] = np.minimum(water, variance.astype(np.float64))
    return filled


class NoisyMaps:
    """One level's cached maps as the test channel gives them back.

    The noise depends on the seed, the level and the sample alone: two strengths of it are the same
    noise scaled, so that curves over strengths are smoother than the noise.
    """

    def __init__(self, reader: LevelReader, errors: NDArray[Any], seed: int) -> None:
        """Take the squared error of each channel, [C]; at most the channel's variance."""
        self._reader = reader
        self._seed = seed
        variance = reader.statistics.variance
        shares = np.divide(errors, variance, out=np.zeros(len(errors)), where=variance > 0)
        shares = np.clip(shares, 0.0, 1.0)
        self._mean = reader.statistics.mean.astype(np.float32)
        self._gain = (1.0 - shares).astype(np.float32)
        self._deviation = np.sqrt(errors * (1.0 - shares)).astype(np.float32)

    def read(self, index: int) -> NDArray[Any]:
        """Return the map of sample `index`, float32 [H, W, C]."""
        values = np.array(self._reader.sample(index), dtype=np.float32)
        generator = np.random.default_rng([self._seed, self._reader.info.index, index])
        noise = generator.standard_normal(values.shape, dtype=np.float32)
        noise *= self._deviation
        values -= self._mean
        values *= self._gain
        values += self._mean
        values += noise
        return values
