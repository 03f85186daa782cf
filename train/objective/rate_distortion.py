"""Rate and distortion, and the loss that training minimises: distortion + lambda * BPP.

Another distortion is one more function of (x_hat, x) that returns the error of each element; what
has none of single elements, or asks where in an image a map lies, is a `MapDistortion`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch

Distortion = Callable[[Tensor, Tensor], Tensor]
"""(x_hat, x), [B, C, H, W] each -> error of each element, float32, of the same shape.

x_hat is float32, x is, too, or as it is stored.
"""


class MapDistortion(ABC):
    """The error of whole maps, which may depend on where in which image each of them lies."""

    @abstractmethod
    def sums(self, x_hat: Tensor, x: Tensor, batch: Batch) -> Tensor:
        """Return each map's error times its real positions and channels, float32 [B].

        `x_hat` float32 [B, C, H, W], `x` the same or as it is stored; `batch` says of which sample
        each map is, which part of it, and how much of that is real.
        """

    @abstractmethod
    def of_cache(self, reader: LevelReader) -> MapDistortion:
        """Return the same for maps of another cache of this level."""

    def in_epoch(self, epoch: int) -> AnyDistortion:
        """Return what training minimises in an epoch, counted from 1; validation has it all."""
        return self


AnyDistortion = Distortion | MapDistortion


def trained_by(distortion: AnyDistortion, epoch: int) -> AnyDistortion:
    """Return what training minimises in an epoch, counted from 1."""
    return distortion.in_epoch(epoch) if isinstance(distortion, MapDistortion) else distortion


def distorted_sums(distortion: AnyDistortion, x_hat: Tensor, x: Tensor, batch: Batch) -> Tensor:
    """Return each map's sum of a distortion over its real positions and channels, float32 [B]."""
    if isinstance(distortion, MapDistortion):
        return distortion.sums(x_hat, x, batch)
    return sum_of_real(distortion(x_hat, x), batch.sizes)


def square_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """Squared difference of each element, in the features' own units squared."""
    return (x_hat - x).square()


def channel_weighted(weights: Tensor) -> Distortion:
    """Return the squared error times a weight per channel; `weights` float32 [C]."""

    def weighted(x_hat: Tensor, x: Tensor) -> Tensor:
        return square_error(x_hat, x) * weights[:, None, None]

    return weighted


def rate_bits(likelihoods: Mapping[str, Tensor]) -> Tensor:
    """Return the estimated bits of each sample, float32 [B]: -sum log2 p over all latents."""
    parts = [-values.flatten(1).log().sum(1) / math.log(2) for values in likelihoods.values()]
    return torch.stack(parts).sum(0)


def has_padding(sizes: Tensor, height: int, width: int) -> bool:
    """Whether a map, real (h, w) in `sizes` int64 [B, 2], is smaller than its batch."""
    return bool((sizes[:, 0] != height).any() or (sizes[:, 1] != width).any())


def sum_of_real(error: Tensor, sizes: Tensor) -> Tensor:
    """Return each sample's sum of `error` [B, C, H, W] over its real positions, float32 [B].

    `sizes` int64 [B, 2], on the CPU, are the real (h, w), top left; positions beyond them are
    padding and count nothing.
    """
    height, width = error.shape[-2:]
    if has_padding(sizes, height, width):
        sizes = sizes.to(error.device, non_blocking=True)
        rows = torch.arange(height, device=error.device) < sizes[:, :1]
        columns = torch.arange(width, device=error.device) < sizes[:, 1:]
        error = error * (rows[:, None, :, None] & columns[:, None, None, :])
    return error.sum((1, 2, 3))


def squared_error(x_hat: Tensor, x: Tensor, sizes: Tensor) -> Tensor:
    """Return each sample's sum of squared differences over its real positions, float32 [B]."""
    return sum_of_real(square_error(x_hat, x), sizes)


def squared_error_of_whole(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return what `squared_error` does where no map has padding, float32 [B]."""
    return square_error(x_hat, x).sum((1, 2, 3))


def num_positions(sizes: Tensor) -> int:
    """Return the number of real feature positions (H * W summed over samples)."""
    return int(sizes.prod(1).sum())


def rate_distortion(
    output: Mapping[str, Tensor | Mapping[str, Tensor]],
    x: Tensor,
    sizes: Tensor,
    lmbda: float,
    *,
    distortion: AnyDistortion = square_error,
    positions: int | None = None,
    batch: Batch | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, MSE, BPP) of a batch, scalars: lambda weighs the rate.

    The distortion is a mean over real positions and all channels; BPP is bits per real position of
    the level's own map, padding's bits included. The MSE, in the features' own units, is for the
    record and equals the distortion unless another one is named; a `MapDistortion` needs the
    `batch` that `x` is. `positions`: by how many real positions to divide, where `x` is a part of a
    batch only; None: by those of `x`. In place of "x_hat" the output may have "measured", its
    `squared_error_of_whole`.
    """
    x_hat, likelihoods = output.get("x_hat"), output["likelihoods"]
    assert isinstance(likelihoods, Mapping)
    positions = num_positions(sizes) if positions is None else positions
    bpp = rate_bits(likelihoods).sum() / positions
    if x_hat is None:
        measured = output["measured"]
        assert isinstance(measured, Tensor)
        mse = measured.sum() / (positions * x.shape[1])
        return mse + lmbda * bpp, mse, bpp
    assert isinstance(x_hat, Tensor)
    num_values = positions * x.shape[1]
    if isinstance(distortion, MapDistortion):
        assert batch is not None, "without it nobody knows where the maps lie"
        error = distortion.sums(x_hat, x, batch).sum() / num_values
    else:
        error = sum_of_real(distortion(x_hat, x), sizes).sum() / num_values
    mse = error
    if distortion is not square_error:
        with torch.no_grad():
            mse = squared_error(x_hat, x, sizes).sum() / num_values
    return error + lmbda * bpp, mse, bpp
