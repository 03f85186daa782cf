"""The codec of one FPN level: CompressAI's factorized prior between feature maps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from configs.schema import ModelConfig

with warnings.catch_warnings():
    # compressai imports pytorch_msssim, whose use of torch.jit.script warns on every start.
    warnings.simplefilter("ignore", FutureWarning)
    from compressai.ans import RansDecoder, RansEncoder  # codespell:ignore ans
    from compressai.entropy_models import EntropyBottleneck
    from compressai.layers import GDN
    from compressai.models import CompressionModel
    from compressai.models.utils import conv, deconv

_MIN_STD = 1e-6  # a channel that never varies is passed on as its mean


class LevelCodec(CompressionModel):  # type: ignore[misc]
    r"""Factorized prior of Balle et al. (ICLR 2018, arXiv:1802.01436), C channels in and out.

    .. code-block:: none

        x ─ pad ─ (x - mean)/std ─▶ g_a ─▶ y ─▶ round ─▶ y_hat ─▶ g_s ─▶ *std + mean ─ crop ─ x_hat
                                                  ▲
                                    entropy bottleneck (per channel density)

    g_a is four 5x5 convolutions of stride 2 with GDN between them, g_s its mirror image with IGDN.
    `mean` and `std` are the cache's per-channel statistics and belong to the weights. Maps are
    padded by replication to a multiple of `stride`; x_hat has the size of x.
    """

    stride = 16

    def __init__(self, num_channels: int, n_hidden: int, n_channels: int) -> None:
        super().__init__()
        self.entropy_bottleneck = EntropyBottleneck(n_channels)
        self.g_a = nn.Sequential(
            conv(num_channels, n_hidden),
            GDN(n_hidden),
            conv(n_hidden, n_hidden),
            GDN(n_hidden),
            conv(n_hidden, n_hidden),
            GDN(n_hidden),
            conv(n_hidden, n_channels),
        )
        self.g_s = nn.Sequential(
            deconv(n_channels, n_hidden),
            GDN(n_hidden, inverse=True),
            deconv(n_hidden, n_hidden),
            GDN(n_hidden, inverse=True),
            deconv(n_hidden, n_hidden),
            GDN(n_hidden, inverse=True),
            deconv(n_hidden, num_channels),
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("std", torch.ones(num_channels))
        self._tables: tuple[list[list[int]], list[int], list[int]] | None = None

    def set_standardisation(self, mean: NDArray[Any], variance: NDArray[Any]) -> None:
        """Take the cache's per-channel mean and variance, float64 [C] each."""
        self.mean.copy_(torch.from_numpy(mean.copy()))
        self.std.copy_(torch.from_numpy(np.sqrt(variance)).clamp(min=_MIN_STD))

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Return x_hat [B, C, H, W] and likelihoods {"y": [B, M, h, w]} for x float32 [B, C, H, W].

        In training mode y_hat is y plus uniform noise, in eval mode it is rounded.
        """
        y = self.g_a(self._standardised(x))
        y_hat, likelihoods = self.entropy_bottleneck(y)
        x_hat = self._restored(self.g_s(y_hat), x.shape[-2], x.shape[-1])
        return {"x_hat": x_hat, "likelihoods": {"y": likelihoods}}

    def update_tables(self) -> None:
        """Compute quantiles and CDF tables for real coding; forward, too, uses the new medians."""
        self.update(force=True, update_quantiles=True)
        bottleneck = self.entropy_bottleneck
        # CompressAI turns these into lists once per sample; coding is several times faster so.
        self._tables = (
            bottleneck._quantized_cdf.tolist(),
            bottleneck._cdf_length.reshape(-1).tolist(),
            bottleneck._offset.reshape(-1).tolist(),
        )

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Return {"strings": [[bytes] per sample], "shape": latents' (h, w), "size": (H, W)}.

        Raises RuntimeError if `update_tables` has not been called.
        """
        cdfs, lengths, offsets = self._coding_tables()
        y = self.g_a(self._standardised(x))
        medians = self._medians()
        symbols = torch.round(y - medians).to(torch.int32)
        indexes = self._indexes(tuple(y.shape[-2:]))
        strings = []
        for sample in symbols:
            encoder = RansEncoder()
            flat = sample.reshape(-1).tolist()
            strings.append([encoder.encode_with_indexes(flat, indexes, cdfs, lengths, offsets)])
        return {
            "strings": strings,
            "shape": (int(y.shape[-2]), int(y.shape[-1])),
            "size": (int(x.shape[-2]), int(x.shape[-1])),
        }

    def decompress(
        self, strings: Sequence[Sequence[bytes]], shape: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return {"x_hat": float32 [B, C, H, W]}, exactly forward's output in eval mode.

        CompressAI's own FactorizedPrior clamps to [0, 1] here; features are signed.
        """
        cdfs, lengths, offsets = self._coding_tables()
        indexes = self._indexes(shape)
        medians = self._medians()
        symbols = [
            RansDecoder().decode_with_indexes(sample[0], indexes, cdfs, lengths, offsets)
            for sample in strings
        ]
        latents = torch.tensor(symbols, dtype=medians.dtype, device=medians.device)
        y_hat = latents.reshape(len(strings), -1, *shape) + medians
        return {"x_hat": self._restored(self.g_s(y_hat), *size)}

    def _standardised(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        below, right = -height % self.stride, -width % self.stride
        if below or right:
            x = functional.pad(x, (0, right, 0, below), mode="replicate")
        return (x - self.mean[:, None, None]) / self.std[:, None, None]

    def _restored(self, x_hat: Tensor, height: int, width: int) -> Tensor:
        x_hat = x_hat[..., :height, :width]
        return x_hat * self.std[:, None, None] + self.mean[:, None, None]

    def _medians(self) -> Tensor:
        medians: Tensor = self.entropy_bottleneck._get_medians().detach()
        return medians.reshape(1, -1, 1, 1)

    def _indexes(self, shape: tuple[int, int]) -> list[int]:
        channels = self.entropy_bottleneck.channels
        indexes: list[int] = torch.arange(channels).repeat_interleave(shape[0] * shape[1]).tolist()
        return indexes

    def _coding_tables(self) -> tuple[list[list[int]], list[int], list[int]]:
        if self._tables is None:
            raise RuntimeError("LevelCodec: call update_tables() before compress or decompress")
        return self._tables


def build_codec(model: ModelConfig, num_channels: int) -> LevelCodec:
    """Return an untrained codec for maps of `num_channels` channels."""
    return LevelCodec(num_channels, model.n_hidden, model.n_channels)
