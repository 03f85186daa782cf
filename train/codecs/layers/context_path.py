"""The way of the decoded coarser level, and of its latents, into a finer level's codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.codecs.layers.transforms import CodecSize

_MIN_STD = 1e-6

_MOST_FEATURES = 64
"""Half of the usual N. Twice as many took 4 % off the loss, and a fifth more time to decode."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the decoder has of coarser levels before it decodes a level.

    `maps` [B, C', H', W'] are the decoded maps of the next coarser level, of any floating dtype;
    `trail` float32 [B, T, h', w'] are its latents as decoded, behind them those that it saw itself,
    on its grid (see `trail_behind`).
    """

    maps: Tensor
    trail: Tensor

    @classmethod
    def of(cls, beside: Sequence[Tensor], device: torch.device | str) -> Context | None:
        """Return what was read beside a batch, maps and trail, on a device; of nothing, None."""
        return cls(*(each.to(device) for each in beside)) if beside else None

    def to(self, device: torch.device | str) -> Context:
        """Return it on a device."""
        return Context(self.maps.to(device), self.trail.to(device))


@dataclass(frozen=True, slots=True)
class Seen:
    """A context as a codec sees it for maps of one size.

    `prediction` float32 [B, C, H, W] is what the coarser map says of the level's own, padded and
    standardised. `features` float32 [B, K, H / 2, W / 2] are for the transforms, `trail` float32
    [B, T, h, w] on the grid of the codec's latents for the entropy model.
    """

    prediction: Tensor
    features: Tensor
    trail: Tensor


class ContextPath(nn.Module):
    """Networks and statistics between a context and a codec with `size.context`.

    `prediction_of_maps`: standardised maps of the coarser level, on the grid of `features` ->
    what they say of the level's own, linear and of full rank: a map of an FPN is in the main the
    coarser one, upsampled and smoothed, and something new. As in predictive coding g_a gets what
    differs from it, and it is added to what g_s gives.

    `features_of_maps`: the same maps -> K features on the grid of what the first layer of g_a
    gives. `to_analysis` and `to_synthesis` add them there, and before the last layer of g_s, where
    `mixing` lets the two say more together. On a grid twice as coarse as the level's a 3x3
    convolution sees what a 5x5 one of stride 2 sees of the upsampled map, for a third of the
    products.

    `parameters_of_latents`: the trail -> scale and mean of every latent, [B, 2 M, h, w].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: CodecSize) -> None:
        super().__init__()
        assert size.context is not None
        hidden, latents = size.n_hidden, size.n_channels
        between = hidden if size.stages > 1 else latents
        self.size = size.context
        self.grid = 2**size.stages
        self.prediction_of_maps = _prediction(size.context.num_channels, size.num_channels)
        features = min(hidden, _MOST_FEATURES)
        self.features_of_maps = nn.Sequential(
            nn.Conv2d(size.context.num_channels, features, 1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(features, features, 3, padding=1),
        )
        self.to_analysis = nn.Conv2d(features, between, 1)
        self.to_synthesis = nn.Conv2d(features, between, 1)
        self.mixing = nn.Sequential(
            nn.LeakyReLU(),
            nn.Conv2d(between, features, 1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(features, features, 3, padding=1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(features, between, 1),
        )
        scales_and_means = nn.Conv2d(hidden, 2 * latents, 1)
        self.parameters_of_latents = nn.Sequential(
            nn.Conv2d(size.context.trail_channels, hidden, 3, padding=1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.LeakyReLU(inplace=True),
            scales_and_means,
        )
        assert scales_and_means.bias is not None
        with torch.no_grad():
            # At first a deviation of 1: at the least one latents would cost tens of bits each.
            scales_and_means.bias[:latents] = 1.0
        self.register_buffer("mean", torch.zeros(size.context.num_channels))
        self.register_buffer("std", torch.ones(size.context.num_channels))

    def set_standardisation(self, means: NDArray[Any], variances: NDArray[Any]) -> None:
        """Take the coarser level's per-channel means and variances, float64 [C']."""
        self.mean.copy_(torch.from_numpy(means.copy()))
        self.std.copy_(torch.from_numpy(np.sqrt(variances)).clamp(min=_MIN_STD))

    def standardised(self, maps: Tensor, height: int, width: int) -> Tensor:
        """Return the coarser maps, float32 [B, C', height / 2, width / 2], on the features' grid.

        `height` and `width` are those of the padded maps of the level itself.
        """
        placed = on_grid_of(maps, self.size.stride, (height // 2, width // 2), 2)
        scale = 1 / self.std[:, None, None]
        return torch.addcmul(-self.mean[:, None, None] * scale, placed, scale)

    def placed_trail(self, trail: Tensor, height: int, width: int) -> Tensor:
        """Return a trail on the grid of the level's own latents, [B, T, h, w]."""
        shape = (height // self.grid, width // self.grid)
        return on_grid_of(trail, self.size.trail_stride, shape, self.grid)


def _prediction(num_coarser: int, num_channels: int) -> nn.Sequential:
    """Return [B, num_coarser, h, w] -> [B, num_channels, 2 h, 2 w], at first 0 everywhere."""
    across = nn.Conv2d(num_coarser, num_channels, 1)
    # Each channel is smoothed for itself, at first bilinearly.
    up = nn.ConvTranspose2d(
        num_channels, num_channels, 4, stride=2, padding=1, groups=num_channels, bias=False
    )
    nearer_and_farther = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        across.weight.zero_()
        across.bias.zero_()  # type: ignore[union-attr]
        up.weight.copy_(torch.outer(nearer_and_farther, nearer_and_farther))
    return nn.Sequential(across, up)


def trail_behind(latents: Tensor, seen: Seen | None) -> Tensor:
    """Return what finer levels see of decoded latents: these, and what they were coded beside.

    float32 [B, M, h, w] and [B, T, h, w] -> [B, M + T, h, w].
    """
    return latents if seen is None else torch.cat((latents, seen.trail.to(latents)), 1)


def on_grid_of(values: Tensor, stride: int, shape: tuple[int, int], wanted_stride: int) -> Tensor:
    """Return values [B, C, h', w'] on another grid, [B, C, *shape]: each the one it lies in.

    Strides are in positions of one and the same level. Beyond the last row or column it is
    repeated. As an FPN upsamples (nearest), and exact: numbers are moved, none is computed.
    """
    values = values.permute(0, 2, 3, 1)  # channels last in memory: whole rows of them are moved
    for dim, side in enumerate(shape, start=1):
        if stride == wanted_stride and values.shape[dim] == side:
            continue
        places = torch.arange(side, device=values.device) * wanted_stride // stride
        values = values.index_select(dim, places.clamp_(max=values.shape[dim] - 1))
    return values.permute(0, 3, 1, 2)
