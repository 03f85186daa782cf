"""From feature maps to latents and back: standardised, padded, through g_a and g_s."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.codecs.layers.compressai_parts import CompressionModel
from train.codecs.layers.transforms import CodecSize, analysis, pad_to_multiple, synthesis

if TYPE_CHECKING:
    from train.codecs.fast.fast_transforms import FastTransform, FastTransforms

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])
Measure = Callable[[Tensor, Tensor], Tensor]
"""(x_hat, x), [B, C, H, W] each, x as it is stored -> what is measured of them."""

_MOST_COMPILED = 64
_MIN_STD = 1e-6  # a channel that never varies is passed on as its mean


class MapTransforms(CompressionModel):  # type: ignore[misc]
    """What a codec does around its entropy model.

    `mean` and `std` [S, C] are the caches' per-channel statistics, one row for each level that the
    codec serves, and belong to the weights. Maps are padded by replication to a multiple of
    `stride`.

    `g_a`: [B, C, H, W], H and W multiples of `stride` -> latents y [B, M, H / stride, W / stride].
    `g_s`: the way back. A codec of other transforms sets them anew.

    `autocast_dtype`: g_a and g_s run under autocast to it, with float32 results; None is float32
    throughout.

    What `compile_functions` compiles is run so while training alone: validation's whole maps, of
    many shapes, are computed as analysis computes them.

    `layer_by_layer`: whether g_a and g_s always run as torch runs them. Otherwise, from
    `hold_weights` on, they run by train.codecs.fast where it can: on a CPU, in eval mode and
    float32, where no gradients are asked for.
    """

    g_a: nn.Module
    g_s: nn.Module
    mean: Tensor
    std: Tensor
    size: CodecSize
    autocast_dtype: torch.dtype | None = None
    layer_by_layer: bool = False
    _level_row: int = 0
    _compiled: Mapping[Hashable, Callable[..., Any]] = MappingProxyType({})
    _fast: FastTransforms | None = None

    def make_transforms(self, size: CodecSize) -> None:
        """Make g_a and g_s of that size, and a standardisation that changes nothing."""
        widths = (size.num_channels, size.n_hidden, size.n_channels, size.stages)
        self.g_a, self.g_s = analysis(*widths), synthesis(*widths)
        self.register_buffer("mean", torch.zeros(size.num_levels, size.num_channels))
        self.register_buffer("std", torch.ones(size.num_levels, size.num_channels))
        self.size = size

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

    def hold_weights(self) -> None:
        """Let g_a and g_s run fast from now on: weights are not expected to change often.

        What runs fast is made of them when it first runs, and anew when they have changed.
        """
        self._fast = _fast_transforms()

    def load_state_dict(self, state_dict: Any, strict: bool = True) -> Any:
        """Load weights."""
        self._fast = None
        return super().load_state_dict(state_dict, strict=strict)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        if self._fast is not None:
            self._fast.clear()  # the codec moves to another device, or becomes another dtype's
        return super()._apply(*args, **kwargs)

    def standardised(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return what g_a sees of maps x [B, C, H, W]: padded, and of mean 0 and deviation 1.

        It is computed in float32, whatever x is stored in. `dtype`: to what it is rounded on the
        way to memory, where nothing is learned of x; None: float32.
        """
        x = self._one_layout(pad_to_multiple(x, self.stride))
        scale = 1 / self._row(self.std)
        operands = -self._row(self.mean) * scale, x, scale
        if dtype is None or x.requires_grad:
            return torch.addcmul(*operands)
        # Autocast would round as well, in a pass of its own.
        return torch.addcmul(*operands, out=torch.empty_like(x, dtype=dtype))

    def latents(self, x: Tensor) -> Tensor:
        """Return y, float32 [B, M, h, w], of maps x [B, C, H, W], as in eval mode."""
        if (fast := self._fast_transform(self.g_a, x)) is None:
            return self.transformed(self.g_a, self.standardised(x))
        scale = 1 / self.std[self._level_row]
        before = torch.stack([scale, -self.mean[self._level_row] * scale])
        height, width = (-(-side // self.stride) for side in x.shape[-2:])
        domain = height * self.stride, width * self.stride
        return fast(x, before=before, domain=domain, size=(height, width))

    def restored(self, y_hat: Tensor, height: int, width: int) -> Tensor:
        """Return x_hat, float32 [B, C, height, width], of latents [B, M, h, w]."""
        if (fast := self._fast_transform(self.g_s, y_hat)) is not None:
            after = torch.stack([self.std[self._level_row], self.mean[self._level_row]])
            domain = int(y_hat.shape[-2]), int(y_hat.shape[-1])
            return fast(y_hat, after=after, domain=domain, size=(height, width))
        return _undone(*self._synthesis(y_hat, height, width))

    def measured(self, y_hat: Tensor, x: Tensor, measure: Measure) -> Tensor:
        """Return `measure(x_hat, x)` of what `restored` gives of the latents y_hat, for maps x.

        Where it is compiled x_hat is never written to memory.
        """
        synthesis = self._synthesis(y_hat, *x.shape[-2:])
        return self.compiled(measured_undone)(measure, x, *synthesis)

    def _synthesis(self, y_hat: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what g_s gives, of whatever dtype and cropped, and its mean and deviation."""
        x_hat = self._in_precision(self.g_s, self._one_layout(y_hat))[..., :height, :width]
        return x_hat, self._row(self.mean), self._row(self.std)

    def transformed(self, network: nn.Module, values: Tensor) -> Tensor:
        """Return the network's results, float32, computed in the precision of `autocast_dtype`."""
        return self._in_precision(network, values).float()

    def _in_precision(self, network: nn.Module, values: Tensor) -> Tensor:
        result: Tensor
        if self.autocast_dtype is None:
            result = self.compiled(network)(values)
            return result
        with torch.autocast(values.device.type, self.autocast_dtype):
            result = self.compiled(network)(values)
        return result

    def compile_functions(self, functions: Iterable[Callable[..., Any]]) -> None:
        """Compile networks and functions with torch.compile; the state's keys do not change.

        Codecs of one process, and of one size, share what is compiled: it is asked for again, not
        made again.
        """
        # torch's 8 shapes of a function are few for six networks, all run by `_output_of`.
        limits: Any = importlib.import_module("torch._dynamo.config")
        limits.cache_size_limit = max(limits.cache_size_limit, _MOST_COMPILED)
        run = torch.compile(_output_of)
        self._compiled = {
            each: partial(run, each) if isinstance(each, nn.Module) else torch.compile(each)
            for each in functions
        }

    def compiled(self, function: Function) -> Function:
        """Return what to call while training in place of a function: its compiled form, or it."""
        if not self.training:
            return function
        return cast(Function, self._compiled.get(function, function))

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Compute in float32, whatever `autocast_dtype` says and the caller has asked for."""
        kept, self.autocast_dtype = self.autocast_dtype, None
        try:
            with torch.autocast(self.mean.device.type, enabled=False):
                yield
        finally:
            self.autocast_dtype = kept

    def _fast_transform(self, network: nn.Module, values: Tensor) -> FastTransform | None:
        if self._fast is None or self.layer_by_layer or self.autocast_dtype is not None:
            return None
        if self.training:
            self._fast.clear()  # an optimiser may be about to change the weights
            return None
        return self._fast.of(network, values)

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


def _output_of(network: nn.Module, values: Tensor) -> Tensor:
    result: Tensor = network(values)  # an argument: a closure would be compiled for each network
    return result


def _undone(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return what is no longer standardised, float32."""
    return torch.addcmul(mean, values, std)


def measured_undone(
    measure: Measure, x: Tensor, values: Tensor, mean: Tensor, std: Tensor
) -> Tensor:
    """Return `measure(x_hat, x)`, x_hat of g_s's `values` and their `mean` and `std`."""
    return measure(_undone(values, mean, std), x)


def _fast_transforms() -> FastTransforms | None:
    made = _fast_room()
    return None if made is None else made()


@cache
def _fast_room() -> type[FastTransforms] | None:
    """Return the room's door, or None where the room has been left out."""
    try:
        from train.codecs.fast.fast_transforms import FastTransforms
    except ImportError as error:
        log.debug("g_a and g_s run layer by layer: %s", error)
        return None
    return FastTransforms
