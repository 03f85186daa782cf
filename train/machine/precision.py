"""Which arithmetic the transforms use: float32, or bfloat16 where that is measurably faster."""

from __future__ import annotations

import logging
import time
from statistics import median

import torch
from torch import Tensor

from train.codecs.level_codec import LevelCodec
from train.objective.rate_distortion import rate_distortion

log = logging.getLogger(__name__)

_WORTH_IT = 1.1
_HOPELESS = 0.5  # a processor without bfloat16 takes ten times as long: nothing to time a batch for
_TIMED_STEPS = 3


def choose_precision(codec: LevelCodec, features: Tensor) -> str:
    """Time steps on a batch, float32 [B, C, H, W], in both; return `float32` or `bfloat16`.

    Neither weights nor random numbers change.
    """
    if features.is_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float32"
    devices = [features.device] if features.is_cuda else []
    before, training = codec.autocast_dtype, codec.training
    codec.train()
    with torch.random.fork_rng(devices=devices):
        ratio = _ratio(codec, features[:1], num_steps=1)
        if ratio > _HOPELESS:
            ratio = _ratio(codec, features, num_steps=_TIMED_STEPS)
    codec.autocast_dtype = before
    codec.train(training)
    codec.zero_grad(set_to_none=True)
    log.info("precision: a step takes %.2f times as long in float32 as in bfloat16", ratio)
    return "bfloat16" if ratio >= _WORTH_IT else "float32"


def _ratio(codec: LevelCodec, features: Tensor, *, num_steps: int) -> float:
    """Return the median time of a step in float32 over that in bfloat16."""
    dtypes = {"float32": None, "bfloat16": torch.bfloat16}
    seconds: dict[str, list[float]] = {name: [] for name in dtypes}
    for turn in range(num_steps + 1):
        for name, dtype in dtypes.items():
            codec.autocast_dtype = dtype
            taken = _seconds_of_step(codec, features)
            if turn:  # the first one warms up
                seconds[name].append(taken)
    return median(seconds["float32"]) / median(seconds["bfloat16"])


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return what a codec's `autocast_dtype` is for a precision."""
    return torch.bfloat16 if precision == "bfloat16" else None


def _seconds_of_step(codec: LevelCodec, features: Tensor) -> float:
    sizes = torch.tensor([features.shape[-2:]] * len(features))
    start = time.perf_counter()
    loss, _, _ = rate_distortion(codec(features), features, sizes, 1.0)
    loss.backward()  # type: ignore[no-untyped-call]
    if features.is_cuda:
        torch.cuda.synchronize(features.device)
    return time.perf_counter() - start
