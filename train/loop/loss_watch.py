"""What stops a run, or makes it speak up, before a night is lost."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import UserError
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch

log = logging.getLogger(__name__)

_LARGE = 100.0
_NO_RATE_BPP = 1e-3
_LEAST_LATENTS = 4  # a side: fewer have no neighbours that are not at an edge
_SHOWN_IDS = 8


class DivergedError(UserError):
    """A loss is nan or infinite: it is that of all processes, and seen by all after one step."""

    met_by_all = True


class LossWatch:
    """Notices the first step whose loss is not finite, without waiting for the device each step."""

    def __init__(self, readers: Sequence[LevelReader], device: str) -> None:
        self._readers = {reader.info.index: reader for reader in readers}
        self._on_cpu = device == "cpu"
        self._first_bad = torch.full((), math.inf, device=device)
        self._seen: deque[tuple[int, int, Tensor]] = deque()
        """Step, level and sample numbers of the steps since the last look."""

    def see(self, step: int, batch: Batch, value: Tensor) -> None:
        """Note a step's loss, a scalar; raises DivergedError (on a GPU, at the next `look`)."""
        self._seen.append((step, batch.level, batch.indices))
        bad = torch.where(value.isfinite(), math.inf, float(step))
        self._first_bad = torch.minimum(self._first_bad, bad)
        if self._on_cpu:
            self.look()

    def look(self) -> None:
        """Raise DivergedError if a step's loss was not finite; waits for the device."""
        first_bad = float(self._first_bad)
        if math.isinf(first_bad):
            self._seen.clear()
            return
        step, level, indices = next(seen for seen in self._seen if seen[0] == first_bad)
        samples = self._readers[level].manifest.samples
        ids = [str(samples[index].image_id) for index in indices.tolist()]
        more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
        # Of several processes one may have none of a batch's images.
        images = f" (images {', '.join(ids[:_SHOWN_IDS])}{more})" if ids else ""
        raise DivergedError(
            f"level {level}: the loss became nan or infinite at step {step}{images}: "
            "the checkpoints are of before it; "
            "lower training.learning_rate, or training.optimizer.clip_max_norm"
        )


def warn_of_large_features(reader: LevelReader) -> None:
    """Warn if a level's features are so large that training may need other settings."""
    statistics = reader.statistics
    largest = max(float(np.abs(statistics.minimum).max()), float(np.abs(statistics.maximum).max()))
    if largest > _LARGE:
        channel = int(np.maximum(-statistics.minimum, statistics.maximum).argmax())
        log.warning(
            "level %d: features are large (|x| up to %.4g, channel %d): the codec standardises "
            "them, but the MSE, and with it the lambda that matters, is in their own units",
            reader.info.index, largest, channel,
        )  # fmt: skip


def warn_of_small_crop(reader: LevelReader, crop: int | None, stride: int) -> None:
    """Warn if a codec of a stride sees little but the edges of crops, and has to code larger maps.

    Layers pad with zeros, so latents at an edge are made otherwise than those within. A fused codec
    of stride 16 that was trained on crops of 32 had 2.4 times their error on whole maps.
    """
    manifest, level = reader.manifest, reader.info.index
    stored = max(
        max(manifest.sample_shape(level, bucket)[:2]) for bucket in range(len(manifest.buckets))
    )
    seen = min(crop or stored, stored)
    is_crop = seen < stored or (manifest.crop is not None and seen >= manifest.crop)
    if is_crop and seen < _LEAST_LATENTS * stride:
        log.warning(
            "level %d: crops of %d positions have %g latents a side, almost all at an edge, and "
            "maps are larger: whole ones may be coded far worse than crops are; choose a crop of "
            "%d at least, or fewer model.stages",
            level, seen, seen / stride, _LEAST_LATENTS * stride,
        )  # fmt: skip


def rate_collapsed(bpp: float) -> bool:
    """Say whether a codec sends (all but) nothing."""
    return bpp < _NO_RATE_BPP


def warn_of_collapse(reader: LevelReader, lmbda: float, bpp: float, weights: NDArray[Any]) -> None:
    """Tell of a rate of zero, and from which lambda on theory expects it.

    A Gaussian component of variance s2 has D(R) = s2 2^(-2R) (Cover and Thomas, theorem 10.3.2), so
    its first bit saves 2 ln 2 s2 of squared error; the distortion is a mean over C channels. No
    rate pays off once lambda exceeds what the best component gives: between 2 ln 2 / C times the
    largest channel's variance, if channels are independent, and 2 ln 2 times the mean variance, if
    they all move together. Correlation between neighbouring positions raises both. `weights`
    float64 [C] are the distortion's: they weigh the variances.
    """
    variance = reader.statistics.variance * weights
    gain = 2 * math.log(2)
    log.warning(
        "level %d: the rate has collapsed to zero (%.2g bits per position at lambda %g): with a "
        "mean variance of %.3g theory expects that from a lambda between %.2g (independent "
        "channels) and %.2g (one common component) on: lower training.lambda",
        reader.info.index, bpp, lmbda, float(variance.mean()),
        gain * float(variance.max()) / len(variance), gain * float(variance.mean()),
    )  # fmt: skip
