"""What all codecs of FPN levels have in common: one contract, whatever the entropy model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.codecs.entropy.latent_coder import (
    CodingTables,
    LatentDecoder,
    channel_indexes,
    coding_tables,
    encode,
    make_tables,
)
from train.codecs.fast.fast_transforms import FastTransform, FastTransforms
from train.codecs.layers.compressai_parts import CompressionModel, EntropyBottleneck, EntropyModel
from train.codecs.layers.transforms import CodecSize, analysis, pad_to_multiple, synthesis

_MIN_STD = 1e-6  # a channel that never varies is passed on as its mean


class LevelCodec(CompressionModel, ABC):  # type: ignore[misc]
    r"""A learned codec between feature maps of C channels; features are signed, never clamped.

    .. code-block:: none

        x ─ pad ─ (x - mean)/std ─▶ g_a ─▶ y ─▶ entropy model ─▶ y_hat ─▶ g_s ─▶ *std + mean ─ crop
                                                                                                │
                                                                                              x_hat

    `mean` and `std` [S, C] are the caches' per-channel statistics, one row for each level that the
    codec serves, and belong to the weights. Maps are padded by replication to a multiple of
    `stride`; x_hat has the size of x. While training, y_hat is y plus uniform noise.

    `autocast_dtype`: forward runs the transforms under autocast to it, with float32 results; None
    is float32 throughout. The densities, and all of compress and decompress, are always float32.

    `input_noise`: while training, g_a sees the features with Gaussian noise on them, of so many of
    each channel's standard deviations; what x_hat is compared to has none (a denoising autoencoder,
    Vincent et al., JMLR 11, 2010). It keeps codecs from learning few samples by heart.

    `noise_share`: (first row, number of rows, rows of the whole batch) if this process holds a
    part of a batch. The noise of the whole batch is drawn and its rows are used, so that processes
    of one seed see the noise that one process would have seen. None: the batch is whole.

    `layer_by_layer`: whether g_a and g_s always run as torch runs them. Otherwise a codec whose
    tables are made (`update_tables`) runs them by train.codecs.fast where it can: on a CPU, in eval
    mode and float32, where no gradients are asked for.
    """

    transform_names: tuple[str, ...] = ("g_a", "g_s")
    """All networks that `compile_transforms` compiles."""

    num_payloads = 1
    """Strings that `compress` gives for each sample."""

    def __init__(self, size: CodecSize, *, bottleneck_channels: int) -> None:
        super().__init__()
        self.entropy_bottleneck = EntropyBottleneck(bottleneck_channels)
        widths = (size.num_channels, size.n_hidden, size.n_channels, size.stages)
        self.g_a, self.g_s = analysis(*widths), synthesis(*widths)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(size.num_levels, size.num_channels))
        self.register_buffer("std", torch.ones(size.num_levels, size.num_channels))
        self.size = size
        self.autocast_dtype: torch.dtype | None = None
        self.input_noise = 0.0
        self.noise_share: tuple[int, int, int] | None = None
        self.layer_by_layer = False
        self._level_row = 0
        self._tables: dict[str, CodingTables] | None = None
        self._fast = FastTransforms()

    @property
    def stride(self) -> int:
        """Feature positions per latent, in each direction."""
        return int(2**self.size.stages)

    @property
    def num_latent_channels(self) -> int:
        """Channels M of the latents y."""
        return self.size.n_channels

    def set_standardisation(self, means: NDArray[Any], variances: NDArray[Any]) -> None:
        """Take the caches' per-channel means and variances, float64 [S, C], or [C] if S is 1.

        Raises ValueError for any other number of values.
        """
        shape = tuple(self.mean.shape)
        deviations = torch.from_numpy(np.sqrt(variances).reshape(shape))
        self.mean.copy_(torch.from_numpy(means.reshape(shape).copy()))
        self.std.copy_(deviations.clamp(min=_MIN_STD))

    def use_level(self, row: int) -> None:
        """Standardise with this row of `mean` and `std` from now on; IndexError if it is none."""
        if not 0 <= row < len(self.mean):
            raise IndexError(f"level row {row}: this codec has {len(self.mean)}")
        self._level_row = row

    def aux_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that `aux_loss`, and nothing else, trains: the quantiles."""
        return [self.entropy_bottleneck.quantiles]

    def compile_transforms(self) -> None:
        """Compile each transform in place (nn.Module.compile); the state's keys do not change."""
        for name in self.transform_names:
            getattr(self, name).compile()

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Return x_hat [B, C, H, W] and the likelihoods of all latents for x float32 [B, C, H, W].

        "likelihoods" holds "y" [B, M, h, w], and "z" [B, N, ...] if there is a hyperprior. In
        training mode the latents get noise; in eval mode they are rounded, and x_hat is what
        `decompress` makes of the bytes.
        """
        if self.training:
            seen = self._standardised(x)
            if self.input_noise:
                seen = seen + self.input_noise * self._drawn(torch.randn, seen)
            y_hat, likelihoods = self._noisy_latents(self._transformed(self.g_a, seen))
        else:
            y_hat, likelihoods = self._rounded_latents(self._latents(x))
        return {"x_hat": self._restored(y_hat, *x.shape[-2:]), "likelihoods": likelihoods}

    def likelihoods(self, x: Tensor) -> dict[str, Tensor]:
        """Return the likelihoods that forward returns in eval mode, without x_hat."""
        return self._rounded_latents(self._latents(x))[1]

    def update_tables(self) -> None:
        """Compute what real coding needs of the weights: quantiles, CDF tables, fast transforms.

        Call it again after every change of the weights. Forward, too, uses the new medians.
        """
        self._fast.clear()
        models = {n: m for n, m in self.named_modules() if isinstance(m, EntropyModel)}
        for module in models.values():
            make_tables(module)
        self._tables = {name: coding_tables(module) for name, module in models.items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True) -> Any:
        """Load weights; tables for coding have to be made anew."""
        self._tables = None
        return super().load_state_dict(state_dict, strict=strict)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._fast.clear()  # the codec moves to another device, or becomes another dtype's
        return super()._apply(*args, **kwargs)

    @torch.no_grad()
    def compress(self, x: Tensor) -> dict[str, Any]:
        """Return {"strings": [[bytes per payload] per sample], "shape": (h, w), "size": (H, W)}.

        `shape` is that of the latents y, from which those of all other latents follow. Raises
        RuntimeError if `update_tables` has not been called, CacheError if latents are not finite.
        """
        with self._in_float32():
            y = self._latents(x)
            return {
                "strings": self._encoded(y),
                "shape": (int(y.shape[-2]), int(y.shape[-1])),
                "size": (int(x.shape[-2]), int(x.shape[-1])),
            }

    @torch.no_grad()
    def decompress(
        self, strings: Sequence[Sequence[bytes]], shape: tuple[int, int], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return {"x_hat": float32 [B, C, H, W]}, exactly forward's output in eval mode.

        CompressAI's own models clamp to [0, 1] here; features are signed. Raises CacheError for
        strings that are damaged, of another model, or of latents of another shape.
        """
        with self._in_float32():
            return {"x_hat": self._restored(self._decoded(strings, shape), *size)}

    @abstractmethod
    def _noisy_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return noisy y and all likelihoods, differentiable."""

    @abstractmethod
    def _rounded_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return y_hat as the decoder will see it, and all likelihoods."""

    @abstractmethod
    def _encoded(self, y: Tensor) -> list[list[bytes]]:
        """Return each sample's payloads."""

    @abstractmethod
    def _decoded(self, strings: Sequence[Sequence[bytes]], shape: tuple[int, int]) -> Tensor:
        """Return y_hat, float32 [B, M, h, w], of each sample's payloads."""

    def _transformed(self, transform: nn.Module, values: Tensor) -> Tensor:
        result: Tensor
        if self.autocast_dtype is None:
            result = transform(values)
            return result
        with torch.autocast(values.device.type, self.autocast_dtype):
            result = transform(values)
        return result.float()

    @contextmanager
    def _in_float32(self) -> Iterator[None]:
        kept, self.autocast_dtype = self.autocast_dtype, None
        try:
            with torch.autocast(self.mean.device.type, enabled=False):
                yield
        finally:
            self.autocast_dtype = kept

    def _noisy(self, latents: Tensor) -> Tensor:
        """Return latents + U(-0.5, 0.5), as while training."""
        return latents + (self._drawn(torch.rand, latents) - 0.5)

    def _drawn(self, draw: Callable[..., Tensor], like: Tensor) -> Tensor:
        """Return random numbers of the shape of `like`; the only source of them while training."""
        num_rows = len(like)
        first, num_mine, num_all = self.noise_share or (0, num_rows, num_rows)
        assert num_mine == num_rows, f"noise_share is for {num_mine} rows, the batch has {num_rows}"
        # Drawn contiguous: the same whatever the memory format of `like`.
        numbers = draw((num_all, *like.shape[1:]), device=like.device)
        return numbers[first : first + num_mine]

    def _latents(self, x: Tensor) -> Tensor:
        """Return y [B, M, h, w] of maps x, as in eval mode."""
        if (fast := self._fast_transform(self.g_a, x)) is None:
            return self._transformed(self.g_a, self._standardised(x))
        scale = 1 / self.std[self._level_row]
        before = torch.stack([scale, -self.mean[self._level_row] * scale])
        height, width = (-(-side // self.stride) for side in x.shape[-2:])
        domain = height * self.stride, width * self.stride
        return fast(x, before=before, domain=domain, size=(height, width))

    def _fast_transform(self, network: nn.Module, values: Tensor) -> FastTransform | None:
        is_plain = self.layer_by_layer or self.training or self._tables is None
        if is_plain or self.autocast_dtype is not None:
            return None
        return self._fast.of(network, values)

    def _standardised(self, x: Tensor) -> Tensor:
        x = self._one_layout(pad_to_multiple(x, self.stride))
        scale = 1 / self._row(self.std)
        return torch.addcmul(-self._row(self.mean) * scale, x, scale)

    def _restored(self, y_hat: Tensor, height: int, width: int) -> Tensor:
        if (fast := self._fast_transform(self.g_s, y_hat)) is not None:
            after = torch.stack([self.std[self._level_row], self.mean[self._level_row]])
            domain = int(y_hat.shape[-2]), int(y_hat.shape[-1])
            return fast(y_hat, after=after, domain=domain, size=(height, width))
        x_hat = self._transformed(self.g_s, self._one_layout(y_hat))[..., :height, :width]
        return torch.addcmul(self._row(self.mean), x_hat, self._row(self.std))

    def _one_layout(self, values: Tensor) -> Tensor:
        """In eval mode return the values channels last, which convolutions are fastest in.

        So forward, compress and decompress run the very same kernels, whatever layout they got.
        """
        _, channels, height, width = values.shape
        # Compared to the last stride: a map of one row or column is in several layouts at once.
        strides = (height * width * channels, 1, width * channels, channels)
        if self.training or values.stride() == strides:
            return values
        return torch.empty_like(values, memory_format=torch.channels_last).copy_(values)

    def _row(self, statistics: Tensor) -> Tensor:
        return statistics[self._level_row][:, None, None]

    def _medians(self) -> Tensor:
        medians: Tensor = self.entropy_bottleneck._get_medians().detach()
        return medians.reshape(1, -1, 1, 1)

    def _bottleneck_rounded(self, values: Tensor) -> Tensor:
        """Return values [B, C, h, w] rounded to whole distances from their channel's median."""
        medians = self._medians()
        return torch.round(values - medians) + medians

    def _bottleneck_encoded(self, values: Tensor) -> list[bytes]:
        symbols = torch.round(values - self._medians())
        return encode(symbols, channel_indexes(symbols.shape), self._coding("entropy_bottleneck"))

    def _bottleneck_decoded(self, strings: Sequence[bytes], shape: tuple[int, int]) -> Tensor:
        tables = self._coding("entropy_bottleneck")
        medians = self._medians()
        decoder = LatentDecoder(strings, tables)
        symbols = decoder.next(channel_indexes((len(strings), medians.shape[1], *shape)))
        decoder.finish()
        return symbols.to(medians) + medians

    def _coding(self, name: str) -> CodingTables:
        if self._tables is None:
            raise RuntimeError("LevelCodec: call update_tables() before compress or decompress")
        return self._tables[name]
