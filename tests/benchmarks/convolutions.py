"""A codec's convolutions alone, forward and backward: the least that a training step can take."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from tests.benchmarks.device_cache import recorded
from train.codecs.level_codec import LevelCodec

_KINDS = (nn.Conv2d, nn.ConvTranspose2d)


def convolutions_of(codec: LevelCodec, x: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Return what computes them once, without biases.

    Each gets random maps of the shape that it gets when the codec sees `x`, in `dtype`, channels
    last. The gradient by the first one's input is not needed, and not computed.
    """
    inputs = _inputs(codec, x)
    parts = []
    for number, (module, shape) in enumerate(inputs):
        alone = copy.deepcopy(module).to(dtype=dtype, memory_format=torch.channels_last)
        alone.bias = None
        given = _random(shape, x.device, dtype).requires_grad_(number > 0)
        result = alone(given)
        gradient = _random(tuple(result.shape), x.device, dtype)
        wanted = [alone.weight, given] if number else [alone.weight]
        parts.append((alone, given, gradient, wanted))

    def compute() -> None:
        for alone, given, gradient, wanted in parts:
            torch.autograd.grad(alone(given), wanted, gradient)

    return recorded(compute, str(x.device))


def _inputs(codec: LevelCodec, x: Tensor) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Return the convolutions in the order in which they are computed, and their inputs' shapes."""
    seen: list[tuple[nn.Module, tuple[int, ...]]] = []

    def see(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        seen.append((module, tuple(args[0].shape)))

    with ExitStack() as hooks, torch.no_grad():
        for module in codec.modules():
            if isinstance(module, _KINDS):
                hooks.callback(module.register_forward_hook(see).remove)
        codec(x)
    return seen


def _random(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
