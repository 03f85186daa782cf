"""Detection on combinations: each level as cached, decoded from a run, derived, or dropped."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from analyze.detection.heads_on_levels import backbone_keys
from analyze.detection.split_evaluator import Results, SplitEvaluator
from analyze.facts.kept_results import Kept
from analyze.facts.results import ClassFacts
from analyze.facts.sent_parts import DROPPED, Part
from analyze.maps.map_source import MapSource
from analyze.maps.replacements import CachedMaps, DerivedMaps, DroppedMaps, derivations
from analyze.measure.decoded_levels import DecodedLevels
from analyze.measure.split import Split
from extract.accuracy.average_precision import Evaluation
from extract.accuracy.bootstrap import Accuracy, interval_of, map_draws
from extract.accuracy.matches import Detections, ap_per_category, map_of_images

_LOG = logging.getLogger(__name__)

_METHOD = "detection 3"
MOST_TOGETHER = 32
"""Combinations that images are looked at with at once: what a killed analysis loses."""

_Name = tuple[tuple[int, str], ...]
Parts = Mapping[int, Part]
Aps = tuple[float, ...]
"""AP (0.50:0.95) of each of `DetectionStudy.classes`."""


class DetectionStudy:
    """Runs the heads once for each combination of parts, unless an earlier analysis did."""

    def __init__(
        self,
        split: Split,
        evaluator: SplitEvaluator,
        decoded: DecodedLevels,
        kept: Kept,
        device: str,
    ) -> None:
        self.derivations = derivations(evaluator.detector, backbone_keys(evaluator.detector))
        """Levels that the decoder can compute from another one."""
        self._split = split
        self._evaluator = evaluator
        self._decoded = decoded
        self._kept = kept
        self._device = device
        self._detections: dict[_Name, Detections] = {}
        self._evaluations: dict[_Name, Evaluation] = {}
        self._drawn: dict[_Name, NDArray[Any]] = {}

    def detections(self, parts: Parts) -> Detections:
        """Return what the heads find; levels without a part are as cached."""
        self.prepare([parts])
        return self._detections[_name(parts)]

    def prepare(self, combinations: Iterable[Parts]) -> None:
        """Run the heads on all of these that no one has asked for before, image by image.

        That is much faster than one by one, as most of them share most levels.
        """
        missing: dict[_Name, Parts] = {}
        for parts in combinations:
            name = _name(parts)
            if name in self._detections:
                continue
            if (kept := self._kept.get(self._key(name))) is not None:
                self._detections[name] = Detections.from_arrays(kept.arrays)
            else:
                missing[name] = parts
        todo = list(missing.values())
        for first in range(0, len(todo), MOST_TOGETHER):
            self._run(todo[first : first + MOST_TOGETHER])

    def _run(self, combinations: Sequence[Parts]) -> None:
        runs = [part.run for parts in combinations for part in parts.values() if part.run]
        if len(combinations) > 1:
            split = self._split.manifest.split
            _LOG.info("detection on %d combinations of %s", len(combinations), split)
        found: list[Results] = [{} for _ in combinations]
        for images in self._decoded.pieces(runs):
            together = self.results_of(combinations, self._decoded.of(runs, images), images)
            for results, more in zip(found, together, strict=True):
                results.update(more)
        for parts, results in zip(combinations, found, strict=True):
            name = _name(parts)
            self._detections[name] = detections = Detections.of(results)
            self._kept.put(self._key(name), {}, detections.arrays())

    def results_of(
        self, combinations: Sequence[Parts], maps: Mapping[Path, MapSource], images: Sequence[int]
    ) -> list[Results]:
        """Return what the heads find on these images; `maps` are run folder -> what it decodes."""
        shared: dict[Hashable, MapSource] = {}
        shared.update(maps.items())
        sources = [self._sources(parts, shared) for parts in combinations]
        return self._evaluator.results_of(sources, images)

    def is_known(self, parts: Parts) -> bool:
        """Say whether an earlier analysis has kept what the heads find."""
        return self._kept.get(self._key(_name(parts))) is not None

    def _key(self, name: _Name) -> dict[str, Any]:
        key: dict[str, Any] = {
            "method": _METHOD,
            "parts": [list(each) for each in name],
            "cache": self._split.cache.content_id,
            # Of the train cache's means, or this one's: a dropped level is replaced by them.
            "means": {
                str(level): hashlib.sha256(self._split.means.of(level).tobytes()).hexdigest()
                for level, identity in name
                if identity == DROPPED.identity
            },
            "images": self._split.num_images,
            "device": self._device,
        }
        if self._evaluator.own_detector:
            # The cache's plan covers weights and sizes, and with a builder's name its thresholds.
            key["detector"] = self._evaluator.own_detector
        return key

    def accuracy(self, parts: Parts) -> Accuracy:
        """Return mAP and its kin, with 95 % intervals over images of mAP and of its drop."""
        evaluation, draws = self.evaluation(parts), self._draws(parts)
        if not parts:
            return dataclasses.replace(evaluation.accuracy, interval=interval_of(draws))
        return self._against_original(evaluation, draws)

    def _against_original(self, evaluation: Evaluation, draws: NDArray[Any]) -> Accuracy:
        return dataclasses.replace(
            evaluation.accuracy,
            interval=interval_of(draws),
            drop=self.evaluation({}).accuracy.map - evaluation.accuracy.map,
            drop_interval=interval_of(self._draws({}) - draws),
        )

    def drop_on(self, parts: Parts, image_ids: Collection[int]) -> float:
        """Return the mAP that is lost on some of the images, as if there were no others.

        NaN if they hold no box that counts.
        """
        before, after = self.evaluation({}).matches, self.evaluation(parts).matches
        return map_of_images(before, image_ids) - map_of_images(after, image_ids)

    def pooled(self, choices: Iterable[tuple[Parts, Collection[int]]]) -> tuple[Accuracy, Aps]:
        """Return accuracy and AP by class of detections that are pooled over all images.

        Each image's are those of one combination: `choices` are combinations and ids of images,
        all images once. Intervals and drop are as of `accuracy`.
        """
        found = Detections.pooled((self.detections(parts), ids) for parts, ids in choices)
        evaluation = self._evaluator.evaluate(found)
        accuracy = self._against_original(evaluation, map_draws(evaluation.matches))
        return accuracy, _known_aps(evaluation)

    def each_image(self, choices: Sequence[tuple[Parts, Sequence[int]]]) -> tuple[Accuracy, Aps]:
        """Return the same of combinations that hold for some images each, by places in the split.

        The heads see an image with its own combination only.
        """
        names = [(_name(parts), [*images]) for parts, images in choices]
        key = self._key(tuple(sorted({part for name, _ in names for part in name})))
        key["by_image"] = sorted([list(map(list, name)), images] for name, images in names)
        if (kept := self._kept.get(key)) is not None:
            found = Detections.from_arrays(kept.arrays)
        else:
            found = Detections.of(dict(sorted(self._mixed(choices).items())))
            self._kept.put(key, {}, found.arrays())
        evaluation = self._evaluator.evaluate(found)
        accuracy = self._against_original(evaluation, map_draws(evaluation.matches))
        return accuracy, _known_aps(evaluation)

    def _mixed(self, choices: Sequence[tuple[Parts, Sequence[int]]]) -> Results:
        runs = [part.run for parts, _ in choices for part in parts.values() if part.run]
        found: Results = {}
        for images in self._decoded.pieces(runs):
            maps = self._decoded.of(runs, images)
            for parts, chosen in choices:
                here = [image for image in chosen if image in images]
                found.update(self.results_of([parts], maps, here)[0])
        return found

    def evaluation(self, parts: Parts) -> Evaluation:
        """Return the figures and the matches of boxes behind them."""
        name = _name(parts)
        if name not in self._evaluations:
            self._evaluations[name] = self._evaluator.evaluate(self.detections(parts))
        return self._evaluations[name]

    def classes(self) -> tuple[ClassFacts, ...]:
        """Return the categories of which boxes count, and whether the detector knows them."""
        assert self._split.annotations is not None
        names = self._split.annotations.categories
        known = set(self._evaluator.label_to_category.values())
        return tuple(
            ClassFacts(
                name=names[each.category_id],
                num_boxes=int(each.num_truths.sum()),
                is_known=each.category_id in known,
            )
            for each in self.evaluation({}).matches.categories
            if each.num_truths.any()
        )

    def class_ap(self, parts: Parts) -> Aps:
        """Return the AP of each of `classes`."""
        return _known_aps(self.evaluation(parts))

    def _draws(self, parts: Parts) -> NDArray[Any]:
        name = _name(parts)
        if name not in self._drawn:
            self._drawn[name] = map_draws(self.evaluation(parts).matches)
        return self._drawn[name]

    def _sources(self, parts: Parts, shared: dict[Hashable, MapSource]) -> dict[int, MapSource]:
        """Return each part's maps. `shared` holds what other combinations have made already."""
        sources: dict[int, MapSource] = {}
        # Rising by level, so that what is derived from a derived level finds it.
        for level, part in sorted(parts.items()):
            name: Hashable
            if part.run is not None:
                sources[level] = shared[part.run.folder]
                continue
            if part.kind == "dropped":
                name, make = (level, "dropped"), partial(self._dropped, level)
            else:
                source = sources.get(self.derivations[level].source_level)
                name, make = (level, id(source)), partial(self._derived, level, source)
            if name not in shared:
                shared[name] = make()
            sources[level] = shared[name]
        return sources

    def _dropped(self, level: int) -> MapSource:
        return DroppedMaps(self._split.readers[level], self._split.means.of(level))

    def _derived(self, level: int, source: MapSource | None) -> MapSource:
        derivation = self.derivations[level]
        cached = self._split.readers[derivation.source_level]
        return DerivedMaps(source or CachedMaps(cached), derivation, self._device)


def _known_aps(evaluation: Evaluation) -> Aps:
    found = ap_per_category(evaluation.matches)
    return tuple(ap for ap in found.values() if not math.isnan(ap))


def _name(parts: Parts) -> _Name:
    return tuple((level, part.identity) for level, part in sorted(parts.items()))
