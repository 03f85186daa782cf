"""The error of a level as the detector's frozen heads see it.

A distance of what a network makes of the original and of the decoded bounds what compression adds
to a task's loss (Fernandez-Menduina, Pavez and Ortega 2025, arXiv 2504.02216, who mix it with the
squared error, too). Two such distances count here, each of one level alone:

- dense: of each anchor of the RPN's, RetinaNet's or FCOS's head, the Kullback-Leibler divergence of
  its class scores (Hinton et al. 2015: the original's are soft labels), and the smooth L1 distance
  of its box, times the original's score: where nothing is, it does not matter where its box lies.
- pooled: of an R-CNN, the squared difference of the box head's representation of boxes. These are
  the image's own that its rule looks for on this level and that lie wholly on the map, and tiles of
  about the size of such boxes that cover it, so that what could be taken for an object counts. Each
  weighs by the score of an object that the box head gives it on the original, and a little more.

Both are multiplied such that what an ideal codec leaves at a quarter of each channel's variance has
the distortion that it has as a squared error: so much is left where rates are useful, and a lambda
stands about where it stands for `mse`. An ideal codec of a Gaussian source draws values towards
their mean and adds noise (its forward test channel: Cover and Thomas, Elements of Information
Theory, section 10.3). Noise alone would not do: heads average it away, and to be drawn to the mean,
which they see, would then count a hundred times as much as its squared error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from configs.errors import ConfigError
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch
from data.reading.whole_maps import whole_map_batches
from train.objective.level_heads import FrozenHeads, LevelHeads
from train.objective.map_places import MapPlace, MapPlaces
from train.objective.rate_distortion import MapDistortion, squared_error

SETTING = "training.distortion detector"
_SQUARED_SHARE = 0.1
"""Of the plain squared error: what the heads do not look at must not go anywhere."""
_LEAST = 0.06  # as of positions in object_weights
_SMOOTH_BELOW = 1 / 9  # of box offsets: torchvision's own, in training an R-CNN
_LEFT = 0.25  # of a channel's variance
_NUM_SAMPLES = 16  # that settle the scales
_DIGITS = 3  # of a scale: what adds up in another order is to be the same distortion


@dataclass(frozen=True, kw_only=True, slots=True)
class Scales:
    """By what each distance is multiplied; `pooled` None: there is no box head on the level."""

    dense: float
    pooled: float | None


class DetectorDistortion(MapDistortion):
    """See above."""

    def __init__(self, heads: LevelHeads, places: MapPlaces, scales: Scales) -> None:
        self._heads = heads
        self._places = places
        self._scales = scales

    def sums(self, x_hat: Tensor, x: Tensor, batch: Batch) -> Tensor:
        """Return each map's error times its real positions and channels, float32 [B]."""
        x = x.float()
        places = self._places.of(batch)
        sums = torch.zeros(len(x), device=x.device)
        for rows, height, width in maps_of_one_size(batch.sizes):
            ours, original = (each[rows, :, :height, :width] for each in (x_hat, x))
            of_rows = [places[row] for row in rows]
            seen = dense_error(self._heads, ours, original) * self._scales.dense
            if self._scales.pooled is not None:
                pooled = pooled_error(self._heads, ours, original, of_rows)
                seen = (seen + pooled * self._scales.pooled) / 2
            sums = sums.index_put((torch.tensor(rows, device=x.device),), seen)
        plain = squared_error(x_hat, x, batch.sizes)
        return (1 - _SQUARED_SHARE) * sums + _SQUARED_SHARE * plain

    def of_cache(self, reader: LevelReader) -> DetectorDistortion:
        """Return the same for maps of another cache of this level."""
        return DetectorDistortion(self._heads, self._places.of_cache(reader), self._scales)


def detector_distortion(heads: FrozenHeads, reader: LevelReader, device: str) -> DetectorDistortion:
    """Return the distortion of a level, its scales settled on the train cache.

    Raises ConfigError if the detector's heads are not known, or do not see the level; CacheError if
    the cache's boxes cannot be read.
    """
    level_heads = LevelHeads(heads, reader.info, SETTING)
    places = MapPlaces(reader, heads, device, with_labels=False)
    return DetectorDistortion(level_heads, places, _scales(level_heads, places, reader, device))


def maps_of_one_size(sizes: Tensor) -> Iterator[tuple[list[int], int, int]]:
    """Yield the rows of each size among int64 [B, 2], and that size: heads pad what they are given.

    So a map that is smaller than its batch is seen as if it were alone.
    """
    listed = sizes.tolist()
    for height, width in sorted({(height, width) for height, width in listed}):
        rows = [row for row, size in enumerate(listed) if size == [height, width]]
        yield rows, height, width


def dense_error(heads: LevelHeads, x_hat: Tensor, x: Tensor) -> Tensor:
    """Return how much the dense head's outputs differ, summed over a map's anchors, [B].

    `x_hat` and `x` float32 [B, C, H, W].
    """
    with torch.no_grad():
        there = heads.dense(x)
        scores = there.scores
    ours = heads.dense(x_hat)
    boxes = functional.smooth_l1_loss(
        ours.deltas, there.deltas, beta=_SMOOTH_BELOW, reduction="none"
    ).sum(2)
    if ours.centreness is not None and there.centreness is not None:
        boxes = boxes + _divergence(ours.centreness, there.centreness)
    return (_divergence(ours.logits, there.logits) + scores * boxes).sum(1)


def _divergence(ours: Tensor, there: Tensor) -> Tensor:
    """Return Bernoulli distributions' divergence by their logits [B, N, K], summed: [B, N]."""
    soft = torch.sigmoid(there)
    cross = functional.binary_cross_entropy_with_logits(ours, soft, reduction="none")
    own = functional.binary_cross_entropy_with_logits(there, soft, reduction="none")
    return (cross - own).sum(2)


def pooled_error(heads: LevelHeads, x_hat: Tensor, x: Tensor, places: list[MapPlace]) -> Tensor:
    """Return how much the box head's representations differ, float32 [B].

    It is their mean over a map's boxes, times its positions. `x_hat` and `x` float32 [B, C, H, W].
    """
    height, width = x.shape[-2:]
    tiles = heads.tiles(height, width, x.device)
    boxes = [torch.cat([_boxes_on(heads, place), tiles]) for place in places]
    with torch.no_grad():
        there = heads.pooled(x, boxes)
        weights = _LEAST + heads.object_scores(there)
    error = (heads.pooled(x_hat, boxes) - there).square().mean(1) * weights
    means = [each.mean() for each in torch.split(error, [len(each) for each in boxes])]
    return torch.stack(means) * (height * width)


def _boxes_on(heads: LevelHeads, place: MapPlace) -> Tensor:
    """Return an image's boxes of this level that lie on the map, [K, 4] px from its corner on."""
    return place.inside(place.boxes[heads.looked_at_here(place.boxes)], heads.level.stride_px)


def ideally_decoded(x: Tensor, reader: LevelReader, random: torch.Generator) -> Tensor:
    """Return maps float32 [B, C, H, W] as a Gaussian's forward test channel would leave them."""
    mean, variance = (
        torch.tensor(each, dtype=torch.float32)[:, None, None]
        for each in (reader.statistics.mean, reader.statistics.variance)
    )
    noise = torch.randn(x.shape, generator=random) * variance.sqrt()
    return mean + (1 - _LEFT) * (x - mean) + math.sqrt(_LEFT * (1 - _LEFT)) * noise


@torch.no_grad()
def _scales(heads: LevelHeads, places: MapPlaces, reader: LevelReader, device: str) -> Scales:
    num = min(_NUM_SAMPLES, reader.num_samples)
    indices = (np.arange(num) * reader.num_samples // num).tolist()
    random = torch.Generator().manual_seed(0)
    squared = dense = pooled = 0.0
    for batch in whole_map_batches(reader, 1, indices):
        x = batch.features.float()
        x, x_hat = (each.to(device) for each in (x, ideally_decoded(x, reader, random)))
        squared += float((x_hat - x).square().sum())
        dense += float(dense_error(heads, x_hat, x).sum())
        if heads.pools:
            pooled += float(pooled_error(heads, x_hat, x, places.of(batch)).sum())
    if not dense > 0 or (heads.pools and not pooled > 0):
        raise ConfigError(
            f"{SETTING}: the heads of the detector answer to level {reader.info.index} as if it "
            "were empty: use a trained detector, or another distortion"
        )
    return Scales(
        dense=float(f"{squared / dense:.{_DIGITS}g}"),
        pooled=float(f"{squared / pooled:.{_DIGITS}g}") if heads.pools else None,
    )
