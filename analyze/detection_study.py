"""Detection on combinations: each level as cached, decoded from a run, derived, or dropped."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from analyze.average_precision import Evaluation
from analyze.bootstrap import interval_of, map_draws
from analyze.decoded_levels import DecodedLevels
from analyze.detections import Detections
from analyze.evaluation import SplitEvaluator
from analyze.kept import Kept
from analyze.known_means import known_mean
from analyze.map_source import MapSource
from analyze.parts import Part
from analyze.replacements import CachedMaps, Derivation, DerivedMaps, DroppedMaps
from analyze.results import Accuracy
from analyze.split import Split

_LOG = logging.getLogger(__name__)

_METHOD = "detection 1"
_Name = tuple[tuple[int, str], ...]


class DetectionStudy:
    """Runs the heads once for each combination of parts, unless an earlier analysis did."""

    def __init__(
        self,
        split: Split,
        evaluator: SplitEvaluator,
        decoded: DecodedLevels,
        kept: Kept,
        derivations: Mapping[int, Derivation],
        device: str,
    ) -> None:
        self._split = split
        self._evaluator = evaluator
        self._decoded = decoded
        self._kept = kept
        self._derivations = derivations
        self._device = device
        self._detections: dict[_Name, Detections] = {}
        self._evaluations: dict[_Name, Evaluation] = {}
        self._drawn: dict[_Name, NDArray[Any]] = {}

    def detections(self, parts: Mapping[int, Part]) -> Detections:
        """Return what the heads find; levels without a part are as cached."""
        name = _name(parts)
        if name not in self._detections:
            key = {
                "method": _METHOD,
                "parts": [list(each) for each in name],
                "cache": self._split.manifest.fingerprint,
                "images": self._split.num_images,
                "device": self._device,
            }
            kept = self._kept.get(key)
            if kept is not None:
                found = Detections.from_arrays(kept.arrays)
            else:
                found = self._evaluator.detections(self._sources(parts))
                self._kept.put(key, {}, found.arrays())
            self._detections[name] = found
        return self._detections[name]

    def accuracy(self, parts: Mapping[int, Part]) -> Accuracy:
        """Return mAP and its kin, with 95 % intervals over images of mAP and of its drop."""
        evaluation, draws = self.evaluation(parts), self._draws(parts)
        if not parts:
            return dataclasses.replace(evaluation.accuracy, interval=interval_of(draws))
        return dataclasses.replace(
            evaluation.accuracy,
            interval=interval_of(draws),
            drop=self.evaluation({}).accuracy.map - evaluation.accuracy.map,
            drop_interval=interval_of(self._draws({}) - draws),
        )

    def evaluation(self, parts: Mapping[int, Part]) -> Evaluation:
        """Return the figures and the matches of boxes behind them."""
        name = _name(parts)
        if name not in self._evaluations:
            self._evaluations[name] = self._evaluator.evaluate(self.detections(parts))
        return self._evaluations[name]

    def _draws(self, parts: Mapping[int, Part]) -> NDArray[Any]:
        name = _name(parts)
        if name not in self._drawn:
            self._drawn[name] = map_draws(self.evaluation(parts).matches)
        return self._drawn[name]

    def _sources(self, parts: Mapping[int, Part]) -> dict[int, MapSource]:
        runs = {level: part.run for level, part in parts.items() if part.run is not None}
        sources: dict[int, MapSource] = dict(self._decoded.of(runs))
        for level, part in sorted(parts.items()):
            reader = self._split.readers[level]
            if part.kind == "dropped":
                sources[level] = DroppedMaps(reader, known_mean(self._split.cache, level))
            elif part.kind == "derived":
                derivation = self._derivations[level]
                source = derivation.source_level
                # Rising by level, so that what is derived from a derived level finds it.
                maps = sources.get(source) or CachedMaps(self._split.readers[source])
                sources[level] = DerivedMaps(maps, derivation, self._device)
        return sources


def _name(parts: Mapping[int, Part]) -> _Name:
    return tuple((level, part.identity) for level, part in sorted(parts.items()))
