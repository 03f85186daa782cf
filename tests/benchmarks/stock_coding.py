"""Code with CompressAI's entropy models as CompressAI's own models do, with our transforms.

FactorizedPrior.compress and MeanScaleHyperprior.compress of compressai.models.google, line by line,
but for standardising, padding, cropping and the clamp to [0, 1], which are for images.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from train.codecs.layers.transforms import pad_to_multiple
from train.codecs.level_codec import LevelCodec


def as_loaded(codec: LevelCodec) -> LevelCodec:
    """Return a copy with the weights in the layout in which CompressAI makes and loads them.

    Convolutions take that of their weights where it is channels last, whatever that of the maps.
    """
    return deepcopy(codec).to(memory_format=torch.contiguous_format)


@torch.no_grad()
def latents(codec: LevelCodec, x: Tensor) -> Tensor:
    """Return y of maps x [1, C, H, W], contiguous as CompressAI's images are."""
    padded = pad_to_multiple(x, codec.stride)
    y: Tensor = codec.g_a((padded - codec._row(codec.mean)) / codec._row(codec.std))
    return y


@torch.no_grad()
def restored(codec: LevelCodec, y_hat: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the maps [1, C, H, W] of latents; `size` is (H, W)."""
    maps: Tensor = codec.g_s(y_hat)[..., : size[0], : size[1]]
    return maps * codec._row(codec.std) + codec._row(codec.mean)


@torch.no_grad()
def encode(codec: Any, y: Tensor) -> list[list[bytes]]:
    """Return the strings of latents y [1, M, h, w]: one list for y, with a hyperprior one for z."""
    if codec.num_payloads == 1:
        return [codec.entropy_bottleneck.compress(y)]
    z = codec.h_a(pad_to_multiple(y, 4))
    z_strings = codec.entropy_bottleneck.compress(z)
    z_hat = codec.entropy_bottleneck.decompress(z_strings, z.shape[-2:])
    means, indexes = _gaussians(codec, z_hat, y.shape[-2:])
    return [codec.gaussian_conditional.compress(y, indexes, means=means), z_strings]


@torch.no_grad()
def decode(codec: Any, strings: list[list[bytes]], shape: tuple[int, int]) -> Tensor:
    """Return y_hat [1, M, h, w] of the strings; `shape` is (h, w)."""
    y_hat: Tensor
    if codec.num_payloads == 1:
        y_hat = codec.entropy_bottleneck.decompress(strings[0], shape)
        return y_hat
    z_shape = (-(-shape[0] // 4), -(-shape[1] // 4))
    z_hat = codec.entropy_bottleneck.decompress(strings[1], z_shape)
    means, indexes = _gaussians(codec, z_hat, shape)
    y_hat = codec.gaussian_conditional.decompress(strings[0], indexes, means=means)
    return y_hat


def _gaussians(codec: Any, z_hat: Tensor, shape: Any) -> tuple[Tensor, Tensor]:
    scales, means = codec.h_s(z_hat)[..., : shape[0], : shape[1]].chunk(2, 1)
    return means, codec.gaussian_conditional.build_indexes(scales)
