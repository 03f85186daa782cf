"""Which positions' errors count how much: those near what the detector takes for an object count.

Detection loses little by errors where nothing is. Of the gradient of a Faster R-CNN's outputs with
respect to a level, squared and summed over channels, a small part of the positions has most
(docs/training.md has figures). How likely a position holds an object is read off the detector's own
dense head, on the uncompressed features; no decoder needs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from configs.errors import ConfigError
from configs.schema.config import Config
from data.reading.level_reader import LevelReader
from train.objective.rate_distortion import Distortion, square_error

_LEAST = 0.06  # a position that nothing is asked of must not decode to something like an object
_REACH = 4  # positions: half an anchor of a Faster R-CNN, whose side is eight strides
_NUM_SAMPLES = 64  # that settle a level's mean weight

Scores = Callable[[Tensor], Tensor]
"""Maps float32 [B, C, H, W] -> the highest score of an object at each position, [B, 1, H, W]."""


def object_scores(detector: Any) -> Scores:
    """Return the scores of a torchvision detector's dense head: the RPN's, RetinaNet's or FCOS's.

    Raises ConfigError for another detector.
    """
    if hasattr(detector, "rpn"):
        rpn_head = detector.rpn.head

        def of_rpn(maps: Tensor) -> Tensor:
            (logits,), _ = rpn_head([maps])
            return torch.sigmoid(logits.amax(1, keepdim=True))

        return of_rpn
    head = getattr(getattr(detector, "head", None), "classification_head", None)
    if head is None:
        raise ConfigError(
            "training.distortion object_weighted: needs a torchvision R-CNN, RetinaNet or FCOS, "
            f"and detector.builder gives a {type(detector).__name__}: choose another distortion"
        )

    def of_dense_head(maps: Tensor) -> Tensor:
        logits = head([maps])  # [B, H * W * anchors, classes]
        best = logits.unflatten(1, (*maps.shape[-2:], -1)).amax((3, 4))
        return torch.sigmoid(best)[:, None]

    return of_dense_head


def position_weights(scores: Scores, maps: Tensor) -> Tensor:
    """Return the weight of each position of maps float32 [B, C, H, W], [B, 1, H, W], not scaled.

    It is the highest score within reach, and something.
    """
    with torch.no_grad():
        return _LEAST + functional.max_pool2d(scores(maps), 2 * _REACH + 1, 1, _REACH)


def object_weighted(scores: Scores, reader: LevelReader, device: str) -> Distortion:
    """Return the squared error times a weight per position, of mean 1 over the train cache.

    The mean is that of a few samples, evenly spread.
    """
    num = min(_NUM_SAMPLES, reader.num_samples)
    total = positions = 0.0
    for index in (np.arange(num) * reader.num_samples // num).tolist():
        values = torch.from_numpy(np.array(reader.sample(index), dtype=np.float32))
        weights = position_weights(scores, values.permute(2, 0, 1)[None].to(device))
        total += float(weights.sum())
        positions += weights.numel()
    mean = total / positions

    def weighted(x_hat: Tensor, x: Tensor) -> Tensor:
        return square_error(x_hat, x) * (position_weights(scores, x.float()) / mean)

    return weighted


def object_weights(config: Config, readers: Sequence[LevelReader], device: str) -> list[Distortion]:
    """Return the distortion of each level; loads the detector, and keeps of it the dense head.

    Raises ConfigError if it cannot be had, CacheError if it is not the one that made the cache.
    """
    # Late: the other distortions need no detector.
    from extract.detector.freshness import refuse_other_detector
    from extract.detector.loading import load_detector

    detector = load_detector(config.detector, device)
    for reader in readers:
        refuse_other_detector(reader.manifest, reader.cache, detector, config.detector)
    scores = object_scores(detector.model)
    return [object_weighted(scores, reader, device) for reader in readers]
