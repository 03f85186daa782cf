"""Detection accuracy of a split whose levels are as cached, or replaced by others."""

from __future__ import annotations

import copy
import hashlib
import json
import queue
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from analyze.detection.heads_on_levels import (
    detect_from_levels,
    detect_together,
    remembered_heads,
    takes_batches,
)
from analyze.detection.roi_align import fast_pooling
from analyze.maps.equal_maps import one_on_device
from analyze.maps.map_source import MapSource
from data.cache.annotations import boxes_of
from data.reading.level_reader import LevelReader
from data.system.threads import num_threads, per_image
from extract.accuracy.average_precision import Evaluation, evaluate_detections
from extract.accuracy.bootstrap import Accuracy
from extract.accuracy.matches import Detections

Results = dict[int, dict[str, torch.Tensor]]
"""Image id -> boxes, labels and scores, as `detect_from_levels` gives them."""


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
    category_ids: tuple[int, ...] | None = None
    """Categories that are evaluated; None: all of which there are boxes."""
    own_detector: str = ""
    """See `extract.detector.own_detector.identity_of`; empty where a builder's name says it all."""

    @property
    def truth(self) -> str:
        """SHA-256 of what mAP depends on beside the cache: boxes, categories, own detector."""
        told: list[object] = [sorted(self.label_to_category.items())]
        if self.category_ids is not None:
            told.append(sorted(self.category_ids))
        # As before categories could be chosen, so that what was kept then is found.
        text = json.dumps(told[0] if len(told) == 1 else told) + self.own_detector
        # Results were kept under the whole file before caches said where their images lay.
        with_paths = next(iter(self.readers.values())).manifest.image_files is None
        boxes = boxes_of(self.annotations, with_paths=with_paths)
        return hashlib.sha256(boxes + text.encode()).hexdigest()

    def accuracy(self, replaced: Mapping[int, MapSource]) -> Accuracy:
        """Return the figures of the split, with the levels in `replaced` taken from there."""
        return self.evaluate(self.detections(replaced)).accuracy

    def detections(self, replaced: Mapping[int, MapSource]) -> Detections:
        """Run the heads over the split, with the levels in `replaced` taken from there."""
        return self.detections_of([replaced])[0]

    def detections_of(self, combinations: Sequence[Mapping[int, MapSource]]) -> list[Detections]:
        """Return what the heads find with each combination's levels taken from its sources."""
        return [Detections.of(found) for found in self.results_of(combinations, self.indices)]

    def results_of(
        self, combinations: Sequence[Mapping[int, MapSource]], indices: Sequence[int]
    ) -> list[Results]:
        """Return what the heads find on the samples `indices`, for each combination.

        What combinations share, a source of a level or a box on it, is computed once an image; on a
        GPU the heads see all combinations of an image as one batch.
        """
        samples = next(iter(self.readers.values())).manifest.samples
        at_once = takes_batches(self.detector) and self.device.type != "cpu"

        def detect(detector: Any, index: int) -> list[dict[str, torch.Tensor]]:
            sample = samples[index]
            hw = (sample.height, sample.width)
            known: dict[tuple[int, int], torch.Tensor] = {}
            if at_once:
                levels = (self.levels(index, each, known) for each in combinations)
                return detect_together(detector, levels, hw)
            memory = remembered_heads(detector) if len(combinations) > 1 else nullcontext()
            with memory:
                return [
                    detect_from_levels(detector, self.levels(index, each, known), hw)
                    for each in combinations
                ]

        return self.found_by(detect, len(combinations), indices)

    def found_by(
        self,
        detect: Callable[[Any, int], Sequence[dict[str, torch.Tensor]]],
        num: int,
        indices: Sequence[int],
    ) -> list[Results]:
        """Return what `detect(detector, sample)`, which makes `num` results, finds on the samples.

        Several images are under way at once, each with a detector of its own.
        """
        samples = next(iter(self.readers.values())).manifest.samples
        device = str(self.device)
        detectors: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for detector in _copies(self.detector, num_threads(device)):
            detectors.put(detector)

        def of_image(index: int) -> Sequence[dict[str, torch.Tensor]]:
            detector = detectors.get()
            try:
                with fast_pooling(detector):
                    return detect(detector, index)
            finally:
                detectors.put(detector)

        found: list[Results] = [{} for _ in range(num)]
        images = tqdm(
            zip(indices, per_image(of_image, indices, device), strict=True),
            desc="detection", unit="image", total=len(indices), disable=None, leave=False,
        )  # fmt: skip
        for index, results in images:
            for result, each in zip(results, found, strict=True):
                each[samples[index].image_id] = result
        return found

    @property
    def device(self) -> torch.device:
        """Where the detector is."""
        device: torch.device = next(self.detector.parameters()).device
        return device

    def evaluate(self, detections: Detections) -> Evaluation:
        """Compare detections with the split's boxes; only their images are evaluated."""
        return evaluate_detections(
            detections, self.annotations, self.label_to_category, self.category_ids
        )

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
        device = str(self.device)
        levels = {}
        for level, reader in sorted(self.readers.items()):
            source = replaced.get(level)
            name = (level, id(source))
            if name not in known:
                values = reader.sample(index) if source is None else source.read(index)
                known[name] = one_on_device(values, device)
            levels[reader.info.key] = known[name]
        return levels


def _copies(detector: Any, num: int) -> list[Any]:
    """Return a detector for each thread: modules of its own, weights the same."""
    weights = [*detector.parameters(), *detector.buffers()]
    try:
        return [
            copy.deepcopy(detector, {id(each): each for each in weights}) for _ in range(num - 1)
        ] + [detector]
    except (TypeError, RuntimeError):  # somebody's own detector holds what cannot be copied
        return [detector]
