"""Detection accuracy of a split whose levels are as cached, or replaced by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from analyze.average_precision import Evaluation, evaluate_detections
from analyze.detection import detect_from_levels
from analyze.detections import Detections
from analyze.map_source import MapSource
from analyze.results import Accuracy
from analyze.roi_align import fast_pooling
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

    def accuracy(self, replaced: Mapping[int, MapSource]) -> Accuracy:
        """Return the figures of the split, with the levels in `replaced` taken from there."""
        return self.evaluate(self.detections(replaced)).accuracy

    def detections(self, replaced: Mapping[int, MapSource]) -> Detections:
        """Run the heads over the split, with the levels in `replaced` taken from there."""
        samples = next(iter(self.readers.values())).manifest.samples
        found = {}
        with fast_pooling(self.detector):
            for index in tqdm(
                self.indices, desc="detection", unit="image", disable=None, leave=False
            ):
                sample = samples[index]
                found[sample.image_id] = detect_from_levels(
                    self.detector, self.levels(index, replaced), (sample.height, sample.width)
                )
        return Detections.of(found)

    def evaluate(self, detections: Detections) -> Evaluation:
        """Compare detections with the split's boxes; only their images are evaluated."""
        return evaluate_detections(detections, self.annotations, self.label_to_category)

    def levels(self, index: int, replaced: Mapping[int, MapSource]) -> dict[str, torch.Tensor]:
        """Return key -> float32 [1, C, H, W] of one sample, finest first."""
        return {
            reader.info.key: as_batch(
                replaced[level].read(index) if level in replaced else reader.sample(index)
            )
            for level, reader in sorted(self.readers.items())
        }


def as_batch(values: NDArray[Any]) -> torch.Tensor:
    """Return [H, W, C] as float32 [1, C, H, W]."""
    return torch.from_numpy(np.array(values, dtype=np.float32)).permute(2, 0, 1)[None]
