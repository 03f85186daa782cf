"""Detection accuracy of a split whose levels are as cached, or replaced by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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
from analyze.remembered_heads import remembered_heads
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
        return self.detections_of([replaced])[0]

    def detections_of(self, combinations: Sequence[Mapping[int, MapSource]]) -> list[Detections]:
        """Return what the heads find with each combination's levels taken from its sources.

        What combinations share, a source of a level or a box on it, is computed once an image.
        """
        samples = next(iter(self.readers.values())).manifest.samples
        found: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in combinations]
        with fast_pooling(self.detector):
            for index in tqdm(
                self.indices, desc="detection", unit="image", disable=None, leave=False
            ):
                sample = samples[index]
                hw = (sample.height, sample.width)
                known: dict[tuple[int, int], torch.Tensor] = {}
                with remembered_heads(self.detector) if len(combinations) > 1 else nullcontext():
                    for results, replaced in zip(found, combinations, strict=True):
                        levels = self.levels(index, replaced, known)
                        results[sample.image_id] = detect_from_levels(self.detector, levels, hw)
        return [Detections.of(results) for results in found]

    def evaluate(self, detections: Detections) -> Evaluation:
        """Compare detections with the split's boxes; only their images are evaluated."""
        return evaluate_detections(detections, self.annotations, self.label_to_category)

    def levels(
        self,
        index: int,
        replaced: Mapping[int, MapSource],
        known: dict[tuple[int, int], torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return key -> float32 [1, C, H, W] of one sample, on the detector's device, finest first.

        `known` remembers tensors from call to call for one image, as long as the sources live.
        """
        known = {} if known is None else known
        device = next(self.detector.parameters()).device
        levels = {}
        for level, reader in sorted(self.readers.items()):
            source = replaced.get(level)
            name = (level, id(source))
            if name not in known:
                values = reader.sample(index) if source is None else source.read(index)
                known[name] = as_batch(values).to(device)
            levels[reader.info.key] = known[name]
        return levels


def as_batch(values: NDArray[Any]) -> torch.Tensor:
    """Return [H, W, C] as float32 [1, C, H, W]."""
    return torch.from_numpy(np.array(values, dtype=np.float32)).permute(2, 0, 1)[None]
