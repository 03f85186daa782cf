"""The factorized prior: every latent channel has one learned density, the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from train.codecs.layers.compressai_parts import bottleneck_likelihood
from train.codecs.layers.transforms import CodecSize
from train.codecs.level_codec import LevelCodec


class FactorizedPrior(LevelCodec):
    r"""Factorized prior of Balle et al. (ICLR 2018, arXiv:1802.01436), C channels in and out.

    ```text
    x ─▶ g_a ─▶ y ─▶ Q ─▶ y_hat ─▶ g_s ─▶ x_hat
                     ▲
          EB (one density per channel)

    Q  = rounding (noise while training), EB = entropy bottleneck
    ```

    g_a is `stages` 5x5 convolutions of stride 2 with GDN between them, g_s its mirror image with
    inverse GDN.
    """

    knows_mixed_quantization = True

    def __init__(self, size: CodecSize) -> None:
        super().__init__(size, bottleneck_channels=size.n_channels)

    def noisy_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        noisy = self.with_noise(y)
        likelihood = self.compiled(bottleneck_likelihood)
        likelihoods = {"y": likelihood(self.entropy_bottleneck, noisy)}
        return self.for_synthesis(y, noisy, self._medians()), likelihoods

    def rounded_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y_hat = self.round_to_medians(y)
        return y_hat, {"y": bottleneck_likelihood(self.entropy_bottleneck, y_hat)}

    def encode_latents(self, y: Tensor) -> list[list[bytes]]:
        return [[payload] for payload in self.encode_bottleneck(y)]

    def decode_latents(self, strings: Sequence[Sequence[bytes]], shape: tuple[int, int]) -> Tensor:
        return self.decode_bottleneck([payload for (payload,) in strings], shape)
