"""The levels that a fused pyramid codes: which of a cache they are, and how they are read at once.

They are all that are coded at all: a level that is derived from another one is not sent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from configs.errors import ConfigError
from configs.schema.config import Config
from configs.schema.training import FUSED_PYRAMID, PyramidConfig
from data.cache.manifest import Manifest
from data.reading.companion import Companion
from data.reading.level_reader import LevelReader
from train.codecs.layers.transforms import PyramidSize
from train.context.beside import Beside

log = logging.getLogger(__name__)


def coded_levels(manifest: Manifest) -> list[int]:
    """Return the numbers of the levels that are coded, finest first."""
    return [level.index for level in manifest.levels if level.derived_from is None]


def measured_pyramid(manifest: Manifest) -> PyramidConfig:
    """Return channels and strides of the coded levels.

    Raises ConfigError if there are not two at least, or if their strides are no powers of 2 apart.
    """
    levels = [manifest.level(index) for index in coded_levels(manifest)]
    if len(levels) < 2:
        raise ConfigError(
            f"--level fused: the cache holds {len(levels)} level that is coded: extract more "
            "(cache.levels), or train that one with --level"
        )
    finest = levels[0].stride_px
    strides = tuple(level.stride_px // finest for level in levels)
    channels = tuple(level.num_channels for level in levels)
    try:
        if any(level.stride_px % finest for level in levels):
            raise ValueError("no whole numbers of positions")
        PyramidSize(num_channels=channels, strides=strides)
    except ValueError as error:
        px = ", ".join(str(level.stride_px) for level in levels)
        raise ConfigError(
            f"--level fused: the levels have strides of {px} px, and stages halve a map ({error}): "
            "train the levels one by one with --level all"
        ) from error
    return PyramidConfig(num_channels=channels, strides=strides)


def fused_config(config: Config, manifest: Manifest) -> Config:
    """Return the settings of a fused pyramid of a cache's levels.

    Raises ConfigError as `measured_pyramid` does, and for what is of single levels alone.
    """
    training = config.training
    of_single_levels = {
        "training.context (--context)": bool(training.context),
        "training.context_on_the_fly (--context-on-the-fly)": training.context_on_the_fly,
        "training.distortion: detector": training.distortion == "detector",
        "training.detection_loss": training.detection_loss is not None,
    }
    for setting, is_given in of_single_levels.items():
        if is_given:
            raise ConfigError(
                f"--level fused: {setting} is for codecs of single levels: leave it out"
            )
    if config.model.name != FUSED_PYRAMID:
        log.debug("model.name: %s, in place of %s", FUSED_PYRAMID, config.model.name)
    fused = {"name": FUSED_PYRAMID, "options": {}, "pyramid": measured_pyramid(manifest)}
    return config.model_copy(update={"model": config.model.model_copy(update=fused)})


def refuse_fused_model(config: Config) -> None:
    """Raise ConfigError if a single level is to be coded by the model of all."""
    if config.model.name == FUSED_PYRAMID:
        raise ConfigError(
            f"model.name: {FUSED_PYRAMID} codes all levels in one: train it with --level fused"
        )


def levels_beside(train: Sequence[LevelReader], val: Sequence[LevelReader]) -> Beside:
    """Return what is read beside the finest level of both splits: all the others."""

    def companions(readers: Sequence[LevelReader]) -> tuple[Companion, ...]:
        finest, *others = readers
        return tuple(
            Companion((reader,), reader.info.stride_px // finest.info.stride_px)
            for reader in others
        )

    return Beside(train=companions(train), val=companions(val))
