"""A codec of one's own: the factorized prior with a smaller decoder. In this folder:

train-level --level 3 --set model.name=own_codec:LightDecoder --set model.options.width=48

What reads such a run is given that --set too, or --trust-code.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from train.codecs.layers.compressai_parts import GDN, bottleneck_likelihood, deconv
from train.codecs.layers.transforms import CodecSize
from train.codecs.level_codec import LevelCodec


class LightDecoder(LevelCodec):
    """g_s has `width` channels and one stage less than `stages`, then a pixel shuffle."""

    def __init__(self, size: CodecSize, width: int = 64) -> None:
        super().__init__(size, bottleneck_channels=size.n_channels)
        layers: list[nn.Module] = []
        for before in [size.n_channels, *[width] * size.stages][: size.stages - 1]:
            layers += [deconv(before, width), GDN(width, inverse=True)]
        last = width if layers else size.n_channels
        self.g_s = nn.Sequential(
            *layers, nn.Conv2d(last, 4 * size.num_channels, 1), nn.PixelShuffle(2)
        )

    def noisy_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        noisy = self.with_noise(y)
        return noisy, {"y": bottleneck_likelihood(self.entropy_bottleneck, noisy)}

    def rounded_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y_hat = self.round_to_medians(y)
        return y_hat, {"y": bottleneck_likelihood(self.entropy_bottleneck, y_hat)}

    def encode_latents(self, y: Tensor) -> list[list[bytes]]:
        return [[payload] for payload in self.encode_bottleneck(y)]

    def decode_latents(self, strings: Sequence[Sequence[bytes]], shape: tuple[int, int]) -> Tensor:
        return self.decode_bottleneck([payload for (payload,) in strings], shape)
