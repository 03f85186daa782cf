"""How a codec's networks are run: in which precision, compiled or not, fast where that can be."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from train.codecs.layers.compressai_parts import CompressionModel

if TYPE_CHECKING:
    from train.codecs.fast.fast_transforms import FastTransform, FastTransforms

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

_MOST_COMPILED = 64


class NetworkRunner(CompressionModel):  # type: ignore[misc]
    """Runs networks as the codec that holds them is told to.

    `autocast_dtype`: g_a and g_s run under autocast to it, with float32 results; None is float32
    throughout.

    What `compile_functions` compiles is run so while training alone: validation's whole maps, of
    many shapes, are computed as analysis computes them.

    `layer_by_layer`: whether g_a and g_s always run as torch runs them. Otherwise, from
    `hold_weights` on, they run by train.codecs.fast where it can: on a CPU, in eval mode and
    float32, where no gradients are asked for.
    """

    mean: Tensor
    autocast_dtype: torch.dtype | None = None
    layer_by_layer: bool = False
    _compiled: Mapping[Hashable, Callable[..., Any]] = MappingProxyType({})
    _fast: FastTransforms | None = None

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


def _output_of(network: nn.Module, values: Tensor) -> Tensor:
    result: Tensor = network(values)  # an argument: a closure would be compiled for each network
    return result


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
