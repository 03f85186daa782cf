"""What all codecs of FPN levels have in common: one contract, whatever the entropy model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from train.codecs.entropy.latent_coder import (
    LatentDecoder,
    channel_indexes,
    encode,
)
from train.codecs.layers.compressai_parts import (
    EntropyBottleneck,
    bottleneck_likelihood,
    gaussian_likelihood,
)
from train.codecs.layers.context_path import Context, Seen, trail_behind
from train.codecs.layers.transforms import CodecSize
from train.codecs.map_transforms import Measure, measured_undone
from train.codecs.training_noise import TrainingNoise


class LevelCodec(TrainingNoise, ABC):
    r"""A learned codec between feature maps of C channels; features are signed, never clamped.

    ```text
    x ─ pad ─ (x - mean)/std ─▶ g_a ─▶ y ─▶ entropy model ─▶ y_hat ─▶ g_s ─▶ *std + mean ─ crop
                                                                                            │
                                                                                          x_hat
    ```

    x_hat has the size of x. While training, y_hat is y plus uniform noise. The densities, and all
    of compress and decompress, are always float32, whatever `autocast_dtype` is.

    Of a codec with `size.context` the decoded next coarser level is a second input of g_a and g_s,
    and the coarser levels' latents one of the entropy model: forward, compress and decompress are
    given a `Context`. Latents travel down from level to level (a `trail`): they are whole numbers
    and what follows from them in float64, so that encoder and decoder agree on what a decoded map
    of floating point could not promise.

    A codec of one's own is a class `Own(size: CodecSize, **options)` derived from this one, named
    `package.module:Own` in `model.name`; `options` are `model.options`. It calls
    `super().__init__`, and may then set transforms of its own in place of `g_a` and `g_s`. It has
    four methods, `noisy_latents`, `rounded_latents`, `encode_latents` and `decode_latents`, which
    are written with `with_noise`, `round_to_medians`, `encode_bottleneck`, `decode_bottleneck`,
    `transformed` and `tables`. An entropy model that is neither CompressAI's EntropyBottleneck nor
    its GaussianConditional brings its tables: a method `coding_tables() -> CodingTables` (see
    `train.codecs.entropy.latent_coder`). One whose four methods take the trail as a last argument,
    and which has `predicted_latents`, says `takes_context = True`. `train.testing.check_codec`
    tests it.
    """

    transform_names: tuple[str, ...] = ("g_a", "g_s")
    """All networks that `compile_steps` compiles."""
    functions_beside = (bottleneck_likelihood, gaussian_likelihood, measured_undone)
    """What it compiles beside them."""

    num_payloads = 1
    """Strings that `compress` gives for each sample."""
    takes_context = False
    """Whether it can be built with `size.context`."""
    knows_mixed_quantization = False
    """Whether `noisy_latents` returns what `for_synthesis` gives. A class says so anew with each
    `noisy_latents` that it writes."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "noisy_latents" in vars(cls) and "knows_mixed_quantization" not in vars(cls):
            cls.knows_mixed_quantization = False

    def __init__(self, size: CodecSize, *, bottleneck_channels: int | None = None) -> None:
        """Make the transforms, and an `entropy_bottleneck` of so many channels, or none."""
        super().__init__()
        if bottleneck_channels is not None:
            # First: random numbers and an optimiser's state go by the order of the parameters.
            self.entropy_bottleneck = EntropyBottleneck(bottleneck_channels)
        self.make_transforms(size)

    @abstractmethod
    def noisy_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return y for g_s, float32 [B, M, h, w], and the likelihoods of noisy latents by name.

        All are differentiable. Likelihoods of y are "y"; those of side information have its name,
        and any shape [B, ...].
        """

    @abstractmethod
    def rounded_latents(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return y_hat as the decoder will see it, to the bit, and all likelihoods."""

    @abstractmethod
    def encode_latents(self, y: Tensor) -> list[list[bytes]]:
        """Return each sample's payloads, `num_payloads` strings."""

    def coded_latents(self, y: Tensor, *trail: Tensor) -> tuple[list[list[bytes]], Tensor]:
        """Return each sample's payloads and the y_hat that the decoder will make of them.

        A codec that knows y_hat once it has encoded says so here, and saves computing it again.
        """
        return self.encode_latents(y, *trail), self.rounded_latents(y, *trail)[0]

    @abstractmethod
    def decode_latents(self, strings: Sequence[Sequence[bytes]], shape: tuple[int, int]) -> Tensor:
        """Return y_hat, float32 [B, M, h, w], of each sample's payloads; `shape` is (h, w).

        Raises CacheError for strings that `encode_latents` has not written for this model.
        """

    def predicted_latents(self, shape: tuple[int, int], trail: Tensor) -> Tensor:
        """Return the y_hat, float32 [B, M, *shape], that the coarser levels' latents make likely.

        It is what a decoder takes for a level that is not sent.
        """
        raise NotImplementedError(f"{type(self).__name__} sees no coarser level")

    def aux_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that `aux_loss`, and nothing else, trains: the quantiles."""
        return [each.quantiles for each in self.modules() if isinstance(each, EntropyBottleneck)]

    def aux_loss(self) -> Tensor:
        """Return how far the quantiles are from where their densities say; 0 if there are none."""
        losses = [each.loss() for each in self.modules() if isinstance(each, EntropyBottleneck)]
        return sum(losses, start=self.mean.new_zeros(()))

    def compile_steps(self) -> None:
        """Compile what training steps compute, but for the random numbers they draw."""
        self.compile_functions((*self.networks(self.transform_names), *self.functions_beside))

    def forward(
        self, x: Tensor, measure: Measure | None = None, context: Context | None = None
    ) -> dict[str, Any]:
        """Return x_hat [B, C, H, W] and the likelihoods of all latents for x [B, C, H, W].

        x is float32, or as it is stored. "likelihoods" holds "y" [B, M, h, w], and "z" [B, N, ...]
        if there is a hyperprior. In training mode the latents get noise; in eval mode they are
        rounded, and x_hat is what `decompress` makes of the bytes. With `measure` there is
        "measured" in place of "x_hat": what it gives of x_hat and x. ValueError without the context
        that the codec needs.
        """
        seen = self.see(context, *x.shape[-2:])
        if self.training:
            shown = self.standardised(self.unforeseen(x, seen), self._dtype_seen())
            y = self.analysed(self.with_input_noise(shown), seen)
            y_hat, likelihoods = self.noisy_latents(y, *_trail(seen))
        else:
            y_hat, likelihoods = self.rounded_latents(self.latents(x, *_given(seen)), *_trail(seen))
        if measure is not None:
            measured = self.measured(y_hat, x, measure, *_given(seen))
            return {"measured": measured, "likelihoods": likelihoods}
        height, width = x.shape[-2:]
        return {
            "x_hat": self.restored(y_hat, height, width, *_given(seen)),
            "likelihoods": likelihoods,
        }

    @torch.no_grad()
    def decoded(self, x: Tensor, context: Context | None = None) -> Context:
        """Return what the decoder will have of maps x [B, C, H, W]: what finer levels see of it.

        `maps` are float32, the x_hat of `decompress`; nothing is coded for it.
        """
        with self.in_float32():
            seen = self.see(context, *x.shape[-2:])
            y_hat, _ = self.rounded_latents(self.latents(x, *_given(seen)), *_trail(seen))
            return self._decoded(y_hat, (int(x.shape[-2]), int(x.shape[-1])), seen)

    @torch.no_grad()
    def predicted(self, size: tuple[int, int], context: Context) -> Context:
        """Return what the decoder has of maps of `size` (H, W) of which nothing is sent.

        Every latent is taken to be at its mean.
        """
        with self.in_float32():
            seen = self.see(context, *size)
            assert seen is not None
            shape = (int(seen.trail.shape[-2]), int(seen.trail.shape[-1]))
            return self._decoded(self.predicted_latents(shape, seen.trail), size, seen)

    def _decoded(self, y_hat: Tensor, size: tuple[int, int], seen: Seen | None) -> Context:
        return Context(self.restored(y_hat, *size, *_given(seen)), trail_behind(y_hat, seen))

    def _dtype_seen(self) -> torch.dtype | None:
        """Return the dtype to which g_a's first layer rounds what it gets, None if it does not."""
        first = next(self.g_a.children(), None)
        rounds = isinstance(first, nn.Conv2d) and not self.input_noise
        return self.autocast_dtype if rounds else None

    def likelihoods(self, x: Tensor, context: Context | None = None) -> dict[str, Tensor]:
        """Return the likelihoods that forward returns in eval mode, without x_hat."""
        seen = self.see(context, *x.shape[-2:])
        return self.rounded_latents(self.latents(x, *_given(seen)), *_trail(seen))[1]

    @torch.no_grad()
    def compress(self, x: Tensor, context: Context | None = None) -> dict[str, Any]:
        """Return {"strings": [[bytes per payload] per sample], "shape": (h, w), "size": (H, W)}.

        `shape` is that of the latents y, from which those of all other latents follow. Raises
        RuntimeError if `update_tables` has not been called since the entropy models' weights
        changed, CacheError if latents are not finite, ValueError without the context that the codec
        needs.
        """
        with self.in_float32():
            seen = self.see(context, *x.shape[-2:])
            y = self.latents(x, *_given(seen))
            return _coded(self.encode_latents(y, *_trail(seen)), y, x)

    @torch.no_grad()
    def compress_for_finer(
        self, x: Tensor, context: Context | None = None
    ) -> tuple[dict[str, Any], Context]:
        """Return what `compress` returns, and the context finer levels get of it."""
        with self.in_float32():
            seen = self.see(context, *x.shape[-2:])
            y = self.latents(x, *_given(seen))
            strings, y_hat = self.coded_latents(y, *_trail(seen))
            coded = _coded(strings, y, x)
            return coded, self._decoded(y_hat, coded["size"], seen)

    @torch.no_grad()
    def decompress(
        self,
        strings: Sequence[Sequence[bytes]],
        shape: tuple[int, int],
        size: tuple[int, int],
        context: Context | None = None,
    ) -> dict[str, Tensor]:
        """Return {"x_hat": float32 [B, C, H, W]}, exactly forward's output in eval mode.

        With it "trail", the latents, and behind them those that they were coded beside: with x_hat
        the context of a finer level. CompressAI's own models clamp to [0, 1] here; features are
        signed. Raises CacheError for strings that are damaged, of another model, or of latents of
        another shape; ValueError without the context that the codec needs.
        """
        with self.in_float32():
            seen = self.see(context, *size)
            there = self._decoded(self.decode_latents(strings, shape, *_trail(seen)), size, seen)
            return {"x_hat": there.maps, "trail": there.trail}

    def round_to_medians(self, values: Tensor) -> Tensor:
        """Return values [B, C, h, w] rounded to whole distances from their channel's median.

        The medians are those of `entropy_bottleneck`, of C channels.
        """
        medians = self._medians()
        return torch.round(values - medians) + medians

    def encode_bottleneck(self, values: Tensor) -> list[bytes]:
        """Return each sample's string of values [B, C, h, w], coded by `entropy_bottleneck`."""
        symbols = torch.round(values - self._medians())
        return encode(symbols, channel_indexes(symbols.shape), self.tables("entropy_bottleneck"))

    def decode_bottleneck(self, strings: Sequence[bytes], shape: tuple[int, int]) -> Tensor:
        """Return what `round_to_medians` makes of the values, float32 [B, C, *shape]."""
        medians = self._medians()
        decoder = LatentDecoder(strings, self.tables("entropy_bottleneck"))
        symbols = decoder.next(channel_indexes((len(strings), medians.shape[1], *shape)))
        decoder.finish()
        return symbols.to(medians) + medians

    def _medians(self) -> Tensor:
        medians: Tensor = self.entropy_bottleneck._get_medians().detach()
        return medians.reshape(1, -1, 1, 1)


def _coded(strings: list[list[bytes]], y: Tensor, x: Tensor) -> dict[str, Any]:
    return {
        "strings": strings,
        "shape": (int(y.shape[-2]), int(y.shape[-1])),
        "size": (int(x.shape[-2]), int(x.shape[-1])),
    }


def _trail(seen: Seen | None) -> tuple[()] | tuple[Tensor]:
    """Return the last argument of the four methods, if they get one."""
    return () if seen is None else (seen.trail,)


def _given(seen: Seen | None) -> tuple[()] | tuple[Seen]:
    """Return the last argument of the transforms: codecs of one's own may know of none."""
    return () if seen is None else (seen,)
