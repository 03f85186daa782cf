"""The distortion of each level, by its name in the configuration."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from configs.schema.config import Config
from data.reading.level_reader import LevelReader
from train.objective.channel_weights import weights_of
from train.objective.object_weights import object_weights
from train.objective.rate_distortion import Distortion, channel_weighted, square_error


def distortions(config: Config, readers: Sequence[LevelReader], device: str) -> list[Distortion]:
    """Return the distortion of each level as `training.distortion` says.

    Raises ConfigError if the weights' file is missing or does not fit a level, or if the detector
    cannot be had; CacheError if it is not the one that made the cache.
    """
    settings = config.training
    if settings.distortion == "object_weighted":
        return object_weights(config, readers, device)
    if settings.distortion == "mse":
        return [square_error for _ in readers]
    return [
        channel_weighted(torch.from_numpy(weights).to(device, torch.float32))
        for weights in (weights_of(settings, reader) for reader in readers)
    ]
