"""The distortion of each level, by its name in the configuration, and the weights it takes.

A distortion of the user's own is a function `package.module:name` of (x_hat, x), float32
[B, C, H, W] each, that returns the error of each element; padding, sums and means are taken care
of. It has to be differentiable in x_hat. On a GPU it is recorded with the step that it is part of
(`training.cuda_graphs`): it may not ask for values on the CPU, nor draw random numbers there.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import ConfigError
from configs.given_files import regular
from configs.own_code import is_own, load_own
from configs.plain_json import parse_json
from configs.schema.config import Config
from configs.schema.training import TrainingConfig
from data.cache.annotations import ANNOTATIONS_NAME, boxes_sha256, read_annotations
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from train.objective.object_weights import object_weights
from train.objective.rate_distortion import (
    AnyDistortion,
    Distortion,
    channel_weighted,
    square_error,
)

log = logging.getLogger(__name__)

BY_VARIANCE = "variance"
CHANNEL_WEIGHTS = "channel_weights"
"""Name of a weights file's fingerprint among those of the caches."""
BOXES = "boxes"
"""Name of the fingerprint of both caches' boxes among theirs."""

_LEAST_VARIANCE = 1e-3  # of the mean: a channel that all but never varies must not outweigh all


def weights_fingerprint(settings: TrainingConfig) -> dict[str, str]:
    """Return the SHA-256 of the weights' file under its name, or nothing if there is none."""
    if settings.distortion != "channel_weighted" or settings.channel_weights == BY_VARIANCE:
        return {}
    path = Path(settings.channel_weights)
    content = path.read_bytes() if path.is_file() else b""
    return {CHANNEL_WEIGHTS: hashlib.sha256(content).hexdigest()}


def boxes_fingerprint(settings: TrainingConfig, *caches: CacheFolder) -> dict[str, str]:
    """Return what changes with any box of the caches under its name, or nothing if none counts.

    Raises CacheError if they cannot be read.
    """
    if settings.distortion != "detector" and settings.detection_loss is None:
        return {}
    read = (read_annotations(each.path / ANNOTATIONS_NAME, each.manifest.split) for each in caches)
    digest = hashlib.sha256("".join(map(boxes_sha256, read)).encode())
    return {BOXES: digest.hexdigest()}


def asks_detector(settings: TrainingConfig) -> bool:
    """Say whether a step asks the detector's heads."""
    by_distortion = settings.distortion in ("object_weighted", "detector")
    return by_distortion or settings.detection_loss is not None


def weights_of(settings: TrainingConfig, reader: LevelReader) -> NDArray[Any]:
    """Return a level's weights, float64 [C], of mean 1; ones where no channel has its own.

    Raises ConfigError if the weights' file is missing or does not fit the level.
    """
    if settings.distortion != "channel_weighted":
        return np.ones(reader.info.num_channels)
    source = settings.channel_weights
    if source == BY_VARIANCE:
        variance = reader.statistics.variance
        least = max(_LEAST_VARIANCE * float(variance.mean()), float(np.finfo(np.float32).tiny))
        weights = 1.0 / np.maximum(variance, least)
    else:
        weights = _read(Path(source), reader.info.index, reader.info.num_channels)
    if not weights.sum() > 0:
        raise ConfigError(
            f"training.channel_weights {source}: all weights of level {reader.info.index} are 0"
        )
    scaled: NDArray[Any] = weights * (len(weights) / weights.sum())
    return scaled


def _read(path: Path, level: int, num_channels: int) -> NDArray[Any]:
    where = f"training.channel_weights {path}"
    try:
        levels = parse_json(regular(path).read_bytes())["levels"]
        weights = np.asarray(levels[str(level)], dtype=np.float64)
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such file") from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: cannot be read ({error})") from error
    except KeyError as error:
        raise ConfigError(f"{where}: has no {error}: a file of weights names every level") from None
    if weights.shape != (num_channels,):
        raise ConfigError(
            f"{where}: level {level} needs {num_channels} weights, one a channel, "
            f"and has an array of {list(weights.shape)}"
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ConfigError(f"{where}: weights of level {level} are negative or not finite")
    return weights


def level_weights(config: Config, num_levels: int) -> Sequence[float]:
    """Return how often each level is drawn; raises ConfigError if the setting does not fit."""
    weights = config.training.level_weights
    if weights is None or num_levels == 1:
        return [1.0] * num_levels
    if len(weights) != num_levels or not sum(weights):
        raise ConfigError(
            f"training.level_weights: {len(weights)} weights, sum {sum(weights):g}: the cache has "
            f"{num_levels} levels: give one weight each, not all of them 0"
        )
    return weights


def distortions(config: Config, readers: Sequence[LevelReader], device: str) -> list[AnyDistortion]:
    """Return the distortion of each level's train cache, with its detection loss if there is one.

    Raises ConfigError if the weights' file is missing or does not fit a level, if the detector
    cannot be had, or if the user's own function cannot be imported; CacheError if the detector is
    not the one that made the cache.
    """
    settings, extra = config.training, config.training.detection_loss
    if settings.distortion != "detector" and extra is None:
        return [*_of_elements(config, readers, device)]
    # Late: the others do without the detector's heads.
    from train.objective.detection_loss import with_detection_loss
    from train.objective.detector_distortion import detector_distortion
    from train.objective.level_heads import frozen_heads

    heads = frozen_heads(config, readers, device)
    found: list[AnyDistortion] = (
        [detector_distortion(heads, reader, device) for reader in readers]
        if settings.distortion == "detector"
        else [*_of_elements(config, readers, device)]
    )
    if extra is None:
        return found
    if extra.from_epoch > settings.epochs:
        log.warning(
            "training.detection_loss: training counts it from epoch %d on, and ends after %d: it "
            "learns nothing of it: set from_epoch lower, or train for more epochs",
            extra.from_epoch, settings.epochs,
        )  # fmt: skip
    return [
        with_detection_loss(
            each, heads, reader, device, weight=extra.weight, from_epoch=extra.from_epoch
        )
        for each, reader in zip(found, readers, strict=True)
    ]


def _of_elements(config: Config, readers: Sequence[LevelReader], device: str) -> list[Distortion]:
    settings = config.training
    if is_own(settings.distortion):
        own = _own(settings.distortion)
        return [own for _ in readers]
    if settings.distortion == "object_weighted":
        return object_weights(config, readers, device)
    if settings.distortion == "mse":
        return [square_error for _ in readers]
    return [
        channel_weighted(torch.from_numpy(weights).to(device, torch.float32))
        for weights in (weights_of(settings, reader) for reader in readers)
    ]


def _own(name: str) -> Distortion:
    function = load_own(name, "training.distortion")

    def own(x_hat: Tensor, x: Tensor) -> Tensor:
        error = function(x_hat, x.float())
        if not isinstance(error, Tensor) or error.shape != x.shape:
            gave = list(error.shape) if isinstance(error, Tensor) else type(error).__name__
            raise ConfigError(
                f"training.distortion: {name!r} returns {gave} for maps of {list(x.shape)}: "
                "return the error of each element, of the maps' shape"
            )
        return error

    return own
