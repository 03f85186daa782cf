"""Rate and distortion of all levels that are coded in one: the mean of the levels' distortions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.objective.rate_distortion import (
    AnyDistortion,
    Distortion,
    MapDistortion,
    num_positions,
    rate_bits,
    square_error,
    squared_error,
    sum_of_real,
)


@dataclass(frozen=True, slots=True)
class PyramidSums:
    """What a batch adds up to, by level, finest first; positions are ints, sums float32 scalars."""

    distorted: list[Tensor]
    squared: list[Tensor]
    positions: list[int]
    bits: Tensor


def pyramid_sums(
    output: Mapping[str, Any], maps: Sequence[Tensor], sizes: Tensor, strides: Sequence[int],
    distortions: Sequence[AnyDistortion],
) -> PyramidSums:  # fmt: skip
    """Return the sums of each level's error over its real positions and channels, and all bits.

    `output` holds "x_hat", the levels' decoded maps, and "likelihoods"; `sizes` int64 [B, 2] on the
    CPU are the real (h, w) of the finest level, of which a level at stride s has ceil(h / s) and
    ceil(w / s).
    """
    sums = PyramidSums([], [], [], rate_bits(output["likelihoods"]).sum())
    for x_hat, x, stride, distortion in zip(
        output["x_hat"], maps, strides, distortions, strict=True
    ):
        real = -(-sizes // stride)
        error = sum_of_real(_of_elements(distortion)(x_hat, x), real).sum()
        squared = error
        if distortion is not square_error:
            with torch.no_grad():
                squared = squared_error(x_hat, x, real).sum()
        sums.distorted.append(error)
        sums.squared.append(squared)
        sums.positions.append(num_positions(real))
    return sums


def pyramid_rate_distortion(
    output: Mapping[str, Any], maps: Sequence[Tensor], sizes: Tensor, strides: Sequence[int],
    lmbda: float, distortions: Sequence[AnyDistortion],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return (loss, MSE, BPP) of a batch, scalars: distortion + lambda * BPP.

    The distortion, and the MSE for the record, are means over the levels of each level's own mean
    over its real positions and channels, in the features' own units: a coarse level of few
    positions counts as much as the finest one. BPP is all bits per real position of the finest.
    """
    sums = pyramid_sums(output, maps, sizes, strides, distortions)
    num_values = [count * x.shape[1] for count, x in zip(sums.positions, maps, strict=True)]
    distortion, mse = (
        torch.stack([each / count for each, count in zip(parts, num_values, strict=True)]).mean()
        for parts in (sums.distorted, sums.squared)
    )
    bpp = sums.bits / sums.positions[0]
    return distortion + lmbda * bpp, mse, bpp


def _of_elements(distortion: AnyDistortion) -> Distortion:
    assert not isinstance(distortion, MapDistortion), "what asks the heads is refused before"
    return distortion
