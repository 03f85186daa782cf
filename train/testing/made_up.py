"""Made-up maps, and what a decoder would have of a coarser level, for codecs of any size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.codecs.layers.context_path import Context
from train.codecs.level_codec import LevelCodec

_LARGEST_LATENT = 9


def made_up_maps(codec: LevelCodec, height: int, width: int, batch: int = 2) -> Tensor:
    """Return smooth signed maps, float32 [batch, C, height, width], of mean -2 and deviation 5."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    shape = (batch, codec.mean.shape[1], -(-height // 4) + 1, -(-width // 4) + 1)
    coarse = torch.randn(shape, generator=generator)
    smooth = functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    return 8 * smooth[..., :height, :width] - 2


def beside(codec: LevelCodec, x: Tensor, row: int | None = None) -> dict[str, Context]:
    """Return what calls are given besides maps x [B, C, H, W]: their context, or that of one row.

    Nothing for a codec that sees none. Its maps are noise, its trail whole numbers and their
    quarters; the same for maps of one size.
    """
    size = codec.size.context
    if size is None:
        return {}
    height, width = x.shape[-2:]
    generator = torch.Generator().manual_seed(height * 1000 + width + 1)

    def numbers(num_channels: int, stride: int) -> Tensor:
        shape = (len(x), num_channels, -(-height // stride), -(-width // stride))
        return torch.randn(shape, generator=generator)

    trail = numbers(size.trail_channels, size.trail_stride) * _LARGEST_LATENT / 2
    rows = slice(None) if row is None else slice(row, row + 1)
    maps = numbers(size.num_channels, size.stride)
    return {"context": Context(maps[rows], torch.round(4 * trail[rows]) / 4)}


def latents_of(codec: LevelCodec, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return y, and what the codec's four methods get after it: the trail, or nothing."""
    seen = codec.see(beside(codec, x).get("context"), int(x.shape[-2]), int(x.shape[-1]))
    if seen is None:
        return codec.latents(x), ()
    return codec.latents(x, seen), (seen.trail,)
