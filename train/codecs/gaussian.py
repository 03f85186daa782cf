"""Latents that are coded each under a Gaussian of its own, which both ends derive."""

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
from train.codecs.layers.transforms import CodecSize, entropy_parameters
from train.codecs.level_codec import LevelCodec

# Encoder and decoder must derive the same table for each latent, or the decoder reads garbage from
# there on. But sums in floating point depend on batch size, threads, memory format and device. So
# everything that follows from z_hat, or from the coarser levels' latents, is computed in float64,
# and means are rounded to multiples of 2**-10: two sums 1e-16 apart give the same mean and the same
# table, unless they lie that close to a limit between two, and no difference can grow from latent
# to latent. (On that grid y - mean and symbol + mean are exact in float32 too.)
_MEAN_STEP = 2.0**-10

Exact = Callable[[nn.Module], nn.Module]
"""Network -> the same in float64."""

Run = Callable[[nn.Module, Tensor], Tensor]
"""(network, its input) -> its output, in whatever precision."""

Choose = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(places int64 [n], scales [B, n, M], means [B, n, M]) -> symbols [B, n, M], all float64."""


def in_float64(transform: nn.Module) -> nn.Module:
    """Return a copy of a transform that computes in float64, uncompiled whatever the original."""
    return deepcopy(transform).double().requires_grad_(False)


class GaussianCodec(LevelCodec):
    """Gaussians from what both ends know: side information z, coarser levels' latents, or both.

    A codec with side information has `h_s`, what comes of z_hat, and says with `_hyper_latents`
    what z is. With both, `fusion` makes one Gaussian of what the two say; a Gaussian has a mean
    then, whatever the model.
    """

    takes_context = True
    knows_mixed_quantization = True
    h_s: nn.Module
    fusion: nn.Module | None

    def __init__(self, size: CodecSize, *, bottleneck_channels: int | None = None) -> None:
        super().__init__(size, bottleneck_channels=bottleneck_channels)
        self.fusion = None
        self.make_side_information(size)
        self.gaussian_conditional = GaussianConditional(None)
        self._float64: dict[nn.Module, tuple[Origin, nn.Module]] = {}

    def make_side_information(self, size: CodecSize) -> None:
        """Make what side information takes; here there is none."""

    def fuse(self, side_channels: int) -> None:
        """Let so many channels from z and the coarser levels' 2 M together give the Gaussians."""
        latents = self.size.n_channels
        self.fusion = entropy_parameters(latents, side_channels + 2 * latents)
        self.transform_names = (*self.transform_names, "fusion")

    def noisy_latents(
        self, y: Tensor, trail: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z = self._hyper_latents(y)
        likelihoods = {}
        if z is not None:
            z = self.with_noise(z)
            of_z = self.compiled(bottleneck_likelihood)
            likelihoods["z"] = of_z(self.entropy_bottleneck, z)
        noisy = self.with_noise(y)
        side = self._side(z, trail, _shape_of(y), self.transformed)
        scales, means = self._scales_and_means(self._parameters_in_parallel(side, noisy), 1)
        of_y = self.compiled(gaussian_likelihood)
        likelihoods["y"] = of_y(self.gaussian_conditional, noisy, scales, means)
        return self.for_synthesis(y, noisy, means), likelihoods

    def rounded_latents(
        self, y: Tensor, trail: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        z = self._hyper_latents(y)
        z_hat = None if z is None else self.round_to_medians(z)
        rows = _as_rows(y)

        def rounded(places: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            return torch.round(rows[:, places] - means)

        scan = self._scan(z_hat, trail, _shape_of(y), rounded)
        y_hat, scales, means = (_as_maps(values, _shape_of(y)) for values in scan)
        likelihoods = {"y": gaussian_likelihood(self.gaussian_conditional, y_hat, scales, means)}
        if z_hat is not None:
            likelihoods["z"] = bottleneck_likelihood(self.entropy_bottleneck, z_hat)
        return y_hat, likelihoods

    def encode_latents(self, y: Tensor, trail: Tensor | None = None) -> list[list[bytes]]:
        return self.coded_latents(y, *(() if trail is None else (trail,)))[0]

    def coded_latents(self, y: Tensor, *trail: Tensor) -> tuple[list[list[bytes]], Tensor]:
        tables = self.tables("gaussian_conditional")
        z = self._hyper_latents(y)
        rows = _as_rows(y)
        symbols, indexes = [], []

        def rounded(places: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            symbols.append(torch.round(rows[:, places] - means))
            indexes.append(self._indexes(scales))
            return symbols[-1]

        z_hat = None if z is None else self.round_to_medians(z)
        beside = trail[0] if trail else None
        y_hat, _, _ = self._scan(z_hat, beside, _shape_of(y), rounded, self._kept_in_float64)
        strings = [encode(torch.cat(symbols, 1), torch.cat(indexes, 1), tables)]
        if z is not None:
            strings.append(self.encode_bottleneck(z))
        payloads = [list(each) for each in zip(*strings, strict=True)]
        return payloads, _as_maps(y_hat, _shape_of(y))

    def decode_latents(
        self,
        strings: Sequence[Sequence[bytes]],
        shape: tuple[int, int],
        trail: Tensor | None = None,
    ) -> Tensor:
        y_strings, *z_strings = zip(*strings, strict=True)
        z_hat = None
        if z_strings:
            z_hat = self.decode_bottleneck(z_strings[0], _shape_of_z(shape))
        decoder = LatentDecoder(y_strings, self.tables("gaussian_conditional"))

        def decoded(places: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            return decoder.next(self._indexes(scales)).to(means)

        y_hat, _, _ = self._scan(z_hat, trail, shape, decoded, self._kept_in_float64)
        decoder.finish()
        return _as_maps(y_hat, shape)

    def predicted_latents(self, shape: tuple[int, int], trail: Tensor) -> Tensor:
        z_hat = None
        if hasattr(self, "entropy_bottleneck"):
            z_hat = self._medians().expand(len(trail), -1, *_shape_of_z(shape))

        def at_the_mean(places: Tensor, scales: Tensor, means: Tensor) -> Tensor:
            return torch.zeros_like(means)

        y_hat, _, _ = self._scan(z_hat, trail, shape, at_the_mean, self._kept_in_float64)
        return _as_maps(y_hat, shape)

    def _hyper_latents(self, y: Tensor) -> Tensor | None:
        """Return side information z [B, N, h / 4, w / 4] on latents y, None if there is none."""
        return None

    def _scales_and_means(self, parameters: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Split the parameters of the Gaussians, whose channels are dimension `dim`.

        There are two for each latent; where there is one, the means are 0.
        """
        if parameters.shape[dim] == self.size.n_channels:
            return parameters, torch.zeros_like(parameters)
        scales, means = parameters.chunk(2, dim)
        return scales, means

    def _side(
        self, z: Tensor | None, trail: Tensor | None, shape: tuple[int, int], run: Run
    ) -> Tensor:
        """Return what both ends know of latents of `shape`, [B, P, h, w]."""
        parts = []
        if z is not None:
            parts.append(run(self.h_s, z)[..., : shape[0], : shape[1]])
        if trail is not None:
            parts.append(run(self.beside.parameters_of_latents, trail))
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _parameters_in_parallel(self, side: Tensor, noisy: Tensor) -> Tensor:
        """Return the parameters of all Gaussians from what both know and the noisy latents."""
        return side if self.fusion is None else self.transformed(self.fusion, side)

    @torch.no_grad()
    def _scan(
        self,
        z_hat: Tensor | None,
        trail: Tensor | None,
        shape: tuple[int, int],
        choose: Choose,
        exact: Exact = in_float64,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return y_hat, scales and means, float64 [B, h * w, M], of latents of `shape` (h, w).

        `choose` gives the symbols of the next places, of which it is told the Gaussians: it rounds
        in forward and in the encoder, and reads the bitstream in the decoder. All three scan here.
        """
        side = self._side(
            z_hat, trail, shape, lambda network, values: exact(network)(values.double())
        )
        return self._scan_places(_as_rows(side), shape, choose, exact)

    def _scan_places(
        self, side: Tensor, shape: tuple[int, int], choose: Choose, exact: Exact
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scan all places at once, as no Gaussian depends on another latent."""
        if self.fusion is not None:
            side = at_each_place(exact(self.fusion), side)
        scales, means = self._scales_and_means(side, 2)
        means = on_grid(means)
        places = torch.arange(side.shape[1], device=side.device)
        return choose(places, scales, means) + means, scales, means

    def _kept_in_float64(self, network: nn.Module) -> nn.Module:
        """As `in_float64`, but once for the same weights."""
        origin, copy = self._float64.get(network, (None, None))
        if origin is None or copy is None or not origin.is_still(network):
            copy = in_float64(network)
            self._float64[network] = Origin(network), copy
        return copy

    def _indexes(self, scales: Tensor) -> Tensor:
        return scale_indexes(scales, self.gaussian_conditional.scale_table)


class ContextPrior(GaussianCodec):
    r"""What the factorized prior becomes beside a coarser level: its latents tell each Gaussian.

    ```text
    x ─▶ g_a ─▶ y ─▶ Q ─▶ y_hat ─▶ g_s ─▶ x_hat
          ▲          ▲              ▲
          │          GC ◀── h_c ◀── │ ── latents of all coarser levels
          └───────────── context ───┘     decoded map of the next coarser one
    ```

    Nothing besides the latents' own symbols is sent.
    """


def at_each_place(network: nn.Module, values: Tensor) -> Tensor:
    """Apply 1x1 convolutions to values [B, n, channels]: one product of matrices for each."""
    for layer in network.children():
        if isinstance(layer, nn.Conv2d):
            values = nn.functional.linear(values, layer.weight.flatten(1), layer.bias)
        else:
            values = layer(values)
    return values


def on_grid(means: Tensor) -> Tensor:
    """Return means rounded to multiples of 2**-10."""
    return torch.round(means / _MEAN_STEP) * _MEAN_STEP


def _shape_of(maps: Tensor) -> tuple[int, int]:
    return int(maps.shape[-2]), int(maps.shape[-1])


def _shape_of_z(shape: tuple[int, int]) -> tuple[int, int]:
    return -(-shape[0] // 4), -(-shape[1] // 4)


def _as_rows(maps: Tensor) -> Tensor:
    """Return [B, M, h, w] as float64 [B, h * w, M]."""
    return maps.double().flatten(2).transpose(1, 2)


def _as_maps(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return [B, h * w, M] as float32 [B, M, h, w]."""
    return rows.float().transpose(1, 2).reshape(len(rows), -1, *shape)
