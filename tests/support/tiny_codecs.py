"""Tiny untrained codecs of all models, and signed features for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from configs.schema.training import ModelConfig
from train.codecs.catalogue import MODELS, build_codec
from train.codecs.level_codec import LevelCodec
from train.runs.checkpoint import Provenance

NUM_CHANNELS = 16
NAMES = list(MODELS)
HYPERPRIORS = NAMES[1:]
PROVENANCE = Provenance(cache_fingerprint="f" * 64, detector_weights_sha256="d" * 64, versions={})


def features(height: int, width: int, batch: int = 2) -> Tensor:
    """Signed features far outside [0, 1], float32 [batch, 16, height, width], of scale 50."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    return 50 * torch.randn(batch, NUM_CHANNELS, height, width, generator=generator) - 20


def tiny_model(name: str = NAMES[0], stages: int = 4) -> ModelConfig:
    """The settings of `tiny_codec`."""
    return ModelConfig.model_validate(
        {"name": name, "stages": stages, "n_hidden": 8, "n_channels": 12}
    )


def tiny_codec(name: str = NAMES[0], stages: int = 4, num_levels: int = 1) -> LevelCodec:
    """An untrained codec in eval mode that standardises `features`; latents are made large.

    So are the differences between the Gaussians that a hyperprior predicts: from untrained weights
    all latents would round to zero and all scales would be the smallest.
    """
    torch.manual_seed(0)
    codec = build_codec(tiny_model(name, stages), NUM_CHANNELS, num_levels)
    shape = (num_levels, NUM_CHANNELS)
    codec.set_standardisation(np.full(shape, -20.0), np.full(shape, 2500.0))
    with torch.no_grad():
        codec.g_a[-1].weight.mul_(30)
        if name in HYPERPRIORS:
            codec.h_a[-1].weight.mul_(30)
            codec.h_s[4].weight.mul_(30)
        if name == "joint_autoregressive":
            codec.context_prediction.weight.mul_(3)
            codec.entropy_parameters[4].weight.mul_(10)
    return codec.eval()


def ready_codec(name: str = NAMES[0], stages: int = 4, num_levels: int = 1) -> LevelCodec:
    """The same codec, ready to code."""
    codec = tiny_codec(name, stages, num_levels)
    codec.update_tables()
    return codec


def largest_error(x: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest expected value (1e-5 of it is float32's)."""
    return float((x - expected).abs().max() / expected.abs().max())
