"""Hyperpriors: side information z tells the decoder the Gaussian of every single latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from train.codecs.entropy.latent_coder import LatentDecoder, encode, scale_indexes
from train.codecs.layers.compressai_parts import (
    GaussianConditional,
    bottleneck_likelihood,
    gaussian_likelihood,
)
from train.codecs.layers.origin import Origin
from train.codecs.layers.transforms import (
    CodecSize,
    hyper_analysis,
    mean_scale_synthesis,
    pad_to_multiple,
    scale_synthesis,
)
from train.codecs.level_codec import LevelCodec

# Encoder and decoder must derive the same table for each latent, or the decoder reads garbage from
# there on. But sums in floating point depend on batch size, threads, memory format and device. So
# everything that follows from z_hat is computed in float64, and means are rounded to multiples of
# 2**-10: two sums 1e-16 apart give the same mean and the same table, unless they lie that close to
# a limit between two, and no difference can grow from latent to latent. (On that grid y - mean and
# symbol + mean are exact in float32 too.)
_MEAN_STEP = 2.0**-10

Exact = Callable[[nn.Module], nn.Module]
"""Network -> the same in float64."""

Choose = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(places int64 [n], scales [B, n, M], means [B, n, M]) -> symbols [B, n, M], all float64."""


def in_float64(transform: nn.Module) -> nn.Module:
    """Return a copy of a transform that computes in float64, uncompiled whatever the original."""
    return deepcopy(transform).double().requires_grad_(False)


class ScaleHyperprior(LevelCodec):
    r"""Scale hyperprior of Balle et al. (ICLR 2018, arXiv:1802.01436), zero-mean Gaussians.

    ```text
    x ─▶ g_a ─▶ y ─┬─▶ |y| ─ pad ─▶ h_a ─▶ z ─▶ Q ─▶ z_hat ─▶ h_s ─ crop ─┐
                   │                            ▲                        scales
                   ▼                            EB                         │
                   Q ◀──────────────────── GC ◀────────────────────────────┘
                   │
                 y_hat ─▶ g_s ─▶ x_hat

    Q = rounding (noise while training), EB = entropy bottleneck, GC = Gaussian conditional
    ```

    h_a and h_s have two stride-2 stages each. The features are padded to a multiple of the stride
    of g_a only, and the latents to a multiple of 4 on their way into h_a, with h_s's output cropped
    to match. Features padded to a multiple of 64 would give an 8x8 map sixteen latents y instead of
    one; z is one position either way.
    """

    transform_names: tuple[str, ...] = ("g_a", "g_s", "h_a", "h_s")
    num_payloads = 2

    def __init__(self, size: CodecSize) -> None:
        super().__init__(size, bottleneck_channels=size.n_hidden)
        self.h_a, self.h_s = self._hyper_transforms(size.n_hidden, size.n_channels)
        self.gaussian_conditional = GaussianConditional(None)
        self._float64: dict[nn.Module, tuple[Origin, nn.Module]] = {}

    def _hyper_transforms(self, n_hidden: int, n_channels: int) -> tuple[nn.Module, nn.Module]:
        return (
            hyper_analysis(n_hidden, n_channels, nn.ReLU),
            scale_synthesis(n_hidden, n_channels),
        )

    def _kept_in_float64(self, network: nn.Module) -> nn.Module:
        """As `in_float64`, but once for the same weights."""
        origin, copy = self._float64.get(network, (None, None))
        if origin is None or copy is None or not origin.is_still(network):
            copy = in_float64(network)
            self._float64[network] = Origin(network), copy
        return copy

    def _hyper_latents(self, y: Tensor) -> Tensor:
        return self.transformed(self.h_a, pad_to_multiple(y.abs(), 4))

    def _scales_and_means(self, parameters: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Split the parameters of the Gaussians, whose channels are dimension `dim`."""
        return parameters, torch.zeros_like(parameters)

    def noisy_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.with_noise(self._hyper_latents(y))
        noisy = self.with_noise(y)
        side = self.transformed(self.h_s, z)[..., : y.shape[-2], : y.shape[-1]]
        scales, means = self._scales_and_means(self._parameters_in_parallel(side, noisy), 1)
        of_y, of_z = self.compiled(gaussian_likelihood), self.compiled(bottleneck_likelihood)
        return noisy, {
            "y": of_y(self.gaussian_conditional, noisy, scales, means),
            "z": of_z(self.entropy_bottleneck, z),
        }

    def _parameters_in_parallel(self, side: Tensor, noisy: Tensor) -> Tensor:
        """Return the parameters of all Gaussians from h_s's output and the noisy latents."""
        return side

    def rounded_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z_hat = self.round_to_medians(self._hyper_latents(y))
        rows = _as_rows(y)

        def rounded(places: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            return torch.round(rows[:, places] - means)

        scan = self._scan(z_hat, _shape_of(y), rounded)
        y_hat, scales, means = (_as_maps(values, _shape_of(y)) for values in scan)
        return y_hat, {
            "y": gaussian_likelihood(self.gaussian_conditional, y_hat, scales, means),
            "z": bottleneck_likelihood(self.entropy_bottleneck, z_hat),
        }

    def encode_latents(self, y: Tensor) -> list[list[bytes]]:
        tables = self.tables("gaussian_conditional")
        z = self._hyper_latents(y)
        rows = _as_rows(y)
        symbols, indexes = [], []

        def rounded(places: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            symbols.append(torch.round(rows[:, places] - means))
            indexes.append(self._indexes(scales))
            return symbols[-1]

        z_hat = self.round_to_medians(z)
        self._scan(z_hat, _shape_of(y), rounded, self._kept_in_float64)
        y_strings = encode(torch.cat(symbols, 1), torch.cat(indexes, 1), tables)
        return [
            list(payloads) for payloads in zip(y_strings, self.encode_bottleneck(z), strict=True)
        ]

    def decode_latents(self, strings: Sequence[Sequence[bytes]], shape: tuple[int, int]) -> Tensor:
        y_strings, z_strings = zip(*strings, strict=True)
        z_hat = self.decode_bottleneck(z_strings, (-(-shape[0] // 4), -(-shape[1] // 4)))
        decoder = LatentDecoder(y_strings, self.tables("gaussian_conditional"))

        def decoded(places: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            return decoder.next(self._indexes(scales)).to(means)

        y_hat, _, _ = self._scan(z_hat, shape, decoded, self._kept_in_float64)
        decoder.finish()
        return _as_maps(y_hat, shape)

    @torch.no_grad()
    def _scan(
        self, z_hat: Tensor, shape: tuple[int, int], choose: Choose, exact: Exact = in_float64
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return y_hat, scales and means, float64 [B, h * w, M], of latents of `shape` (h, w).

        `choose` gives the symbols of the next places, of which it is told the Gaussians: it rounds
        in forward and in the encoder, and reads the bitstream in the decoder. All three scan here.
        """
        side = exact(self.h_s)(z_hat.double())[..., : shape[0], : shape[1]]
        return self._scan_places(_as_rows(side), shape, choose, exact)

    def _scan_places(
        self, side: Tensor, shape: tuple[int, int], choose: Choose, exact: Exact
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scan all places at once, as no Gaussian depends on another latent."""
        scales, means = self._scales_and_means(side, 2)
        means = on_grid(means)
        places = torch.arange(side.shape[1], device=side.device)
        return choose(places, scales, means) + means, scales, means

    def _indexes(self, scales: Tensor) -> Tensor:
        return scale_indexes(scales, self.gaussian_conditional.scale_table)


class MeanScaleHyperprior(ScaleHyperprior):
    r"""Mean and scale hyperprior of Minnen, Balle and Toderici (NeurIPS 2018, arXiv:1809.02736).

    ```text
    x ─▶ g_a ─▶ y ─┬─ pad ─▶ h_a ─▶ z ─▶ Q ─▶ z_hat ─▶ h_s ─ crop ─┐
                   │                     ▲                   scales, means
                   ▼                     EB                        │
                   Q ◀───────────── GC ◀───────────────────────────┘
                   │
                 y_hat ─▶ g_s ─▶ x_hat
    ```

    As ScaleHyperprior, but h_s predicts means too, and y is rounded to whole distances from them.
    """

    def _hyper_transforms(self, n_hidden: int, n_channels: int) -> tuple[nn.Module, nn.Module]:
        return (
            hyper_analysis(n_hidden, n_channels, nn.LeakyReLU),
            mean_scale_synthesis(n_hidden, n_channels),
        )

    def _hyper_latents(self, y: Tensor) -> Tensor:
        return self.transformed(self.h_a, pad_to_multiple(y, 4))

    def _scales_and_means(self, parameters: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        scales, means = parameters.chunk(2, dim)
        return scales, means


def on_grid(means: Tensor) -> Tensor:
    """Return means rounded to multiples of 2**-10."""
    return torch.round(means / _MEAN_STEP) * _MEAN_STEP


def _shape_of(maps: Tensor) -> tuple[int, int]:
    return int(maps.shape[-2]), int(maps.shape[-1])


def _as_rows(maps: Tensor) -> Tensor:
    """Return [B, M, h, w] as float64 [B, h * w, M]."""
    return maps.double().flatten(2).transpose(1, 2)


def _as_maps(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return [B, h * w, M] as float32 [B, M, h, w]."""
    return rows.float().transpose(1, 2).reshape(len(rows), -1, *shape)
