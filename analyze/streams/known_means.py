"""The means that a receiver puts in place of a level that is not sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.cache.manifest import FILE_NAME, Manifest
from data.reading.level_reader import LevelReader

_MEANS_OF = "train"


def known_mean(cache: Path, level: int) -> NDArray[Any]:
    """Return a level's per-channel mean, float32 [C], which stands in for it when it is dropped.

    It is that of the training split's cache beside this one, which a receiver can know as it knows
    the models; without that cache of the same detector, this one's own.
    """
    with LevelReader(_known_cache(cache, level), level) as reader:
        return reader.statistics.mean.astype(np.float32)


def _known_cache(cache: Path, level: int) -> Path:
    sibling = cache.with_name(_MEANS_OF)
    if not (sibling / FILE_NAME).is_file():
        return cache
    manifest = Manifest.load(sibling)
    made_by = Manifest.load(cache).detector["weights_sha256"]
    same = manifest.detector["weights_sha256"] == made_by
    held = level in {info.index for info in manifest.levels}
    return sibling if same and held else cache
