"""The fused pyramid: one latent for all coded levels of a pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.codecs.hyperprior import MeanScaleHyperprior
from train.codecs.layers.pyramid_transforms import PyramidAnalysis, PyramidSynthesis
from train.codecs.layers.transforms import CodecSize, PyramidSize


class FusedPyramid(MeanScaleHyperprior):
    r"""After L-MSFC of Kim et al. (arXiv:2306.16670): levels are fused while they are encoded.

    ```text
    x_0 ─▶ ┌──────┐ ─▶ ┌──────┐       ┌──────┐                          ┌──────┐ ─▶ ... ─▶ x_hat_0
    x_1 ───│──────│──▶ │ g_a  │ ─ ... │ g_a  │ ─▶ y ─▶ MSH ─▶ y_hat ─▶  │ g_s  │ ─▶ ... ─▶ x_hat_1
    x_S ───│──────│────│──────│─────▶ │      │                          └──────┘ ─▶ x_hat_S
           └──────┘    └──────┘       └──────┘

    MSH = mean and scale hyperprior
    ```

    Each stage halves the grid, and the level of the new grid joins: the latent stands for all of
    them. The way back gives each level at its own grid. From the paper are the interleaving and the
    one latent; the layers are those of our other codecs (5x5 convolutions and GDN, in place of
    residual and attention blocks), and so is the entropy model, so that what a comparison with
    codecs of single levels shows is the fusion.

    In place of the maps of one level it takes, and gives, those of all: a sequence, finest first,
    [B, C_l, H_l, W_l] each. Each level is standardised by its own row of `mean` and `std`; they are
    padded by replication to the grid of the latents, and cropped to their real sizes after it.
    """

    g_a: PyramidAnalysis
    g_s: PyramidSynthesis

    def make_transforms(self, size: CodecSize) -> None:
        """Make g_a and g_s for the levels of `size.pyramid`."""
        assert size.pyramid is not None
        self.g_a, self.g_s = PyramidAnalysis(size), PyramidSynthesis(size)
        self.register_buffer("mean", torch.zeros(size.num_levels, size.num_channels))
        self.register_buffer("std", torch.ones(size.num_levels, size.num_channels))
        self.size = size

    @property
    def pyramid(self) -> PyramidSize:
        """The levels that it codes."""
        assert self.size.pyramid is not None
        return self.size.pyramid

    def networks(self, names: Sequence[str]) -> list[nn.Module]:
        """Return the networks of those names as they are run: stage by stage."""
        stages = (*self.g_a.stages, *self.g_s.stages, *self.g_s.heads)
        others = (getattr(self, name) for name in names if name not in ("g_a", "g_s"))
        return [*stages, *others]

    def latent_shape(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return (h, w) of the latents of maps of these (H_l, W_l): as many as all levels need."""
        height, width = (
            max(
                -(-size[dim] * stride // self.stride)
                for size, stride in zip(sizes, self.pyramid.strides, strict=True)
            )
            for dim in (0, 1)
        )
        return height, width

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Any]:  # type: ignore[override]
        """Return {"x_hat": maps of all levels, "likelihoods": those of all latents}.

        As of a level: noise while training, and in eval mode what `decompress` gives of the bytes.
        """
        standardised = self._standardised_all(maps)
        if self.training:
            shown = [self.with_input_noise(each) for each in standardised]
            y_hat, likelihoods = self.noisy_latents(self._fused(shown))
        else:
            y_hat, likelihoods = self.rounded_latents(self._fused(standardised))
        return {"x_hat": self._split(y_hat, _sizes(maps)), "likelihoods": likelihoods}

    def likelihoods(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the likelihoods that forward returns in eval mode, without x_hat."""
        return self.rounded_latents(self._fused(self._standardised_all(maps)))[1]

    @torch.no_grad()
    def compress(self, maps: Sequence[Tensor]) -> dict[str, Any]:  # type: ignore[override]
        """Return {"strings": [[bytes per payload] per sample], "sizes": [(H_l, W_l) per level]}.

        Raises as the codec of a level does.
        """
        with self.in_float32():
            y = self._fused(self._standardised_all(maps))
            return {"strings": self.encode_latents(y), "sizes": _sizes(maps)}

    @torch.no_grad()
    def decompress(  # type: ignore[override]
        self, strings: Sequence[Sequence[bytes]], sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Return the maps, float32 [B, C_l, *sizes[l]], exactly forward's output in eval mode.

        Raises CacheError for strings that are damaged, of another model, or of maps of other sizes.
        """
        with self.in_float32():
            return self._split(self.decode_latents(strings, self.latent_shape(sizes)), sizes)

    def _standardised_all(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return what g_a sees of the levels: of mean 0 and deviation 1, on the padded grids."""
        height, width = self.latent_shape(_sizes(maps))
        found = []
        for level, (x, stride) in enumerate(zip(maps, self.pyramid.strides, strict=True)):
            repeat = self.stride // stride
            x = self._one_layout(_padded(x, height * repeat, width * repeat))
            mean, std = self._statistics(level)
            found.append(torch.addcmul(-mean / std, x, 1 / std))
        return found

    def _fused(self, standardised: Sequence[Tensor]) -> Tensor:
        return self.g_a.run(standardised, self._transformed_in_one_layout)

    def _split(self, y_hat: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return the maps of all levels, cropped to their sizes and no longer standardised."""
        maps = []
        restored = self.g_s.run(y_hat, self._transformed_in_one_layout)
        for level, (values, (height, width)) in enumerate(zip(restored, sizes, strict=True)):
            mean, std = self._statistics(level)
            maps.append(torch.addcmul(mean, values[..., :height, :width], std))
        return maps

    def _transformed_in_one_layout(self, network: nn.Module, values: Tensor) -> Tensor:
        return self.transformed(network, self._one_layout(values))

    def _statistics(self, level: int) -> tuple[Tensor, Tensor]:
        """Return a level's mean and deviation, float32 [C_l, 1, 1]."""
        channels = self.pyramid.num_channels[level]
        mean, std = self.mean[level, :channels], self.std[level, :channels]
        return mean[:, None, None], std[:, None, None]


def _sizes(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]


def _padded(x: Tensor, height: int, width: int) -> Tensor:
    below, right = height - x.shape[-2], width - x.shape[-1]
    if not (below or right):
        return x
    return functional.pad(x, (0, right, 0, below), mode="replicate")
