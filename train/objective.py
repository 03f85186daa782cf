"""Rate and distortion, and the loss that training minimises: MSE + lambda * BPP."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def rate_bits(likelihoods: Mapping[str, Tensor]) -> Tensor:
    """Return the estimated bits of each sample, float32 [B]: -sum log2 p over all latents."""
    parts = [-values.flatten(1).log().sum(1) / math.log(2) for values in likelihoods.values()]
    return torch.stack(parts).sum(0)


def squared_error(x_hat: Tensor, x: Tensor, sizes: Tensor) -> Tensor:
    """Return each sample's sum of squared differences over its real positions, float32 [B].

    `x_hat` and `x` are [B, C, H, W]; `sizes` int64 [B, 2], on the CPU, are the real (h, w), top
    left; positions beyond them are padding and count nothing.
    """
    error = (x_hat - x).square()
    height, width = x.shape[-2:]
    if bool((sizes[:, 0] != height).any() or (sizes[:, 1] != width).any()):
        sizes = sizes.to(x.device)
        rows = torch.arange(height, device=x.device) < sizes[:, :1]
        columns = torch.arange(width, device=x.device) < sizes[:, 1:]
        error = error * (rows[:, None, :, None] & columns[:, None, None, :])
    return error.sum((1, 2, 3))


def num_positions(sizes: Tensor) -> int:
    """Return the number of real feature positions (H * W summed over samples)."""
    return int(sizes.prod(1).sum())


def rate_distortion(
    output: Mapping[str, Tensor | Mapping[str, Tensor]], x: Tensor, sizes: Tensor, lmbda: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (loss, MSE, BPP) of a batch, scalars: lambda weighs the rate.

    MSE is over real positions and all channels, in the features' own units; BPP is bits per real
    position of the level's own map, padding's bits included.
    """
    x_hat, likelihoods = output["x_hat"], output["likelihoods"]
    assert isinstance(x_hat, Tensor)
    assert isinstance(likelihoods, Mapping)
    positions = num_positions(sizes)
    mse = squared_error(x_hat, x, sizes).sum() / (positions * x.shape[1])
    bpp = rate_bits(likelihoods).sum() / positions
    return mse + lmbda * bpp, mse, bpp
