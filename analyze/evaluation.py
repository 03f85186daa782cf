"""Detection accuracy of a split whose levels are as cached, or replaced by decoded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analyze.average_precision import mean_average_precision
from analyze.decoded_maps import DecodedMaps
from analyze.detection import detect_from_levels
from analyze.results import Accuracy
from data.reader import LevelReader


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitEvaluator:
    """The heads, the cached levels and the boxes of one split."""

    detector: Any
    readers: Mapping[int, LevelReader]
    """Level -> reader, all levels that the heads expect."""
    indices: Sequence[int]
    """Samples that are evaluated."""
    annotations: Path
    label_to_category: Mapping[int, int]

    def accuracy(self, replaced: Mapping[int, DecodedMaps]) -> Accuracy:
        """Run the heads over the split, with the levels in `replaced` taken from there."""
        samples = next(iter(self.readers.values())).manifest.samples
        detections = {}
        for index in self.indices:
            levels = {
                reader.info.key: _as_batch(
                    replaced[level].read(index) if level in replaced else reader.sample(index)
                )
                for level, reader in sorted(self.readers.items())
            }
            sample = samples[index]
            detections[sample.image_id] = detect_from_levels(
                self.detector, levels, (sample.height, sample.width)
            )
        return Accuracy(
            **mean_average_precision(detections, self.annotations, self.label_to_category)
        )


def _as_batch(values: NDArray[Any]) -> torch.Tensor:
    """Return [H, W, C] as float32 [1, C, H, W]."""
    return torch.from_numpy(np.array(values, dtype=np.float32)).permute(2, 0, 1)[None]
