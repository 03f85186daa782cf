"""Every anchor at every rate point over a whole pyramid, or its image: rate, error, detection."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analyze.anchors.anchor_points import AnchorPoint, AnchorStudy
from analyze.anchors.anchor_rate_distortion import AnchorMeasurement, measure_anchor
from analyze.anchors.anchor_split import AnchorSplit
from analyze.anchors.contract import Anchor, AnchorCodec, fitting_indices
from analyze.facts.kept_results import Kept
from analyze.image_coding.image_anchors import ImageAnchor
from analyze.image_coding.image_study import (
    ImageMeasurement,
    keep_image_point,
    study_images,
    unknown_ways,
)
from analyze.maps.map_source import DecodedMaps, MapSource
from analyze.maps.replacements import DerivedMaps
from analyze.streams.unsent_levels import overhead
from configs.errors import BadImageError, CacheError, ConfigError
from configs.own_code import code_of
from data.cache.cache_folder import CacheFolder
from data.reading.level_reader import LevelReader
from extract.accuracy.bootstrap import Accuracy

_LOG = logging.getLogger(__name__)

_METHOD = "anchor 4"


def study_anchors(
    anchors: Mapping[str, Anchor | ImageAnchor], split: AnchorSplit, kept: Kept, scratch: Path
) -> AnchorStudy:
    """Measure each anchor; decoded maps lie under `scratch`, a folder, while it runs.

    What cannot be had is a line of `missing`: an encoder that is not installed, images that are not
    there, a train cache that is not there, crops of another detector's features, or without one of
    the levels. Raises CacheError if a cache is damaged.
    """
    of_features = {
        name: each for name, each in anchors.items() if not isinstance(each, ImageAnchor)
    }
    of_images = {name: each for name, each in anchors.items() if isinstance(each, ImageAnchor)}
    studies = [
        _study_features(of_features, split, kept, scratch),
        _study_images(of_images, split, kept),
    ]
    return AnchorStudy(
        points=tuple(point for study in studies for point in study.points),
        missing=tuple(line for study in studies for line in study.missing),
    )


def keep_point(
    anchor: Anchor | ImageAnchor, place: int, split: AnchorSplit, kept: Kept, scratch: Path
) -> None:
    """Measure one rate point, by its place, so that `study_anchors` finds it in `kept`.

    For who measures the points in many processes: each fits the anchor anew. Raises what is a line
    of `missing` there.
    """
    if isinstance(anchor, ImageAnchor):
        assert split.evaluator is not None, "images need detection"
        keep_image_point(anchor, place, split.evaluator, kept)
        return
    with ExitStack() as stack:
        train = _train_readers(split, stack)
        codecs = {
            level: anchor.fit(reader, fitting_indices(reader))[place]
            for level, reader in train.items()
        }
        key = _key(anchor, anchor.points[place], split, train)
        kept.put(key, _measure_point(anchor.name, codecs, split, scratch), {})


def unknown_points(anchor: Anchor | ImageAnchor, split: AnchorSplit, kept: Kept) -> list[int]:
    """Return the places of the rate points that are not kept; none of what cannot be had."""
    if anchor.unavailable() is not None:
        return []
    if isinstance(anchor, ImageAnchor):
        return [] if split.evaluator is None else unknown_ways(anchor, split.evaluator, kept)
    with ExitStack() as stack:
        try:
            train = _train_readers(split, stack)
        except CacheError:
            return []
        keys = [_key(anchor, settings, split, train) for settings in anchor.points]
        return [place for place, key in enumerate(keys) if kept.get(key) is None]


def _study_features(
    anchors: Mapping[str, Anchor], split: AnchorSplit, kept: Kept, scratch: Path
) -> AnchorStudy:
    points: list[AnchorPoint] = []
    missing: list[str] = []
    with ExitStack() as stack:
        try:
            train = _train_readers(split, stack) if anchors else {}
        except CacheError as error:
            return AnchorStudy(points=(), missing=(f"no anchors: {error}",))
        for name, anchor in anchors.items():
            if (reason := anchor.unavailable()) is not None:
                missing.append(reason)
                continue
            try:
                points.extend(_study_one(name, anchor, split, train, kept, scratch))
            except ConfigError as error:  # an encoder that refuses the size of a picture
                missing.append(f"{anchor.name}: {error}")
    return AnchorStudy(points=tuple(points), missing=tuple(missing))


def _study_images(
    anchors: Mapping[str, ImageAnchor], split: AnchorSplit, kept: Kept
) -> AnchorStudy:
    points: list[AnchorPoint] = []
    missing: list[str] = []
    for name, anchor in anchors.items():
        if split.evaluator is None:
            return AnchorStudy(points=(), missing=("no anchors of images: they need detection",))
        if (reason := anchor.unavailable()) is not None:
            missing.append(reason)
            continue
        try:
            found = study_images(anchor, split.evaluator, kept)
        except BadImageError as error:  # no other anchor would find it either
            missing.append(f"no anchors of images: {error}")
            break
        except ConfigError as error:  # a codec that refuses the size of an image
            missing.append(f"{anchor.name}: {error}")
            continue
        points.extend(_image_point(name, each, split.num_pixels) for each in found)
    return AnchorStudy(points=tuple(points), missing=tuple(missing))


def _image_point(name: str, found: ImageMeasurement, num_pixels: int) -> AnchorPoint:
    return AnchorPoint(
        anchor=name,
        title=found.title,
        point=found.point,
        levels={},
        derived=(),
        bits_per_pixel=8 * found.num_bytes / num_pixels,
        ideal_bits_per_pixel=None,
        accuracy=found.accuracy,
        is_image=True,
    )


def _train_readers(split: AnchorSplit, stack: ExitStack) -> dict[int, LevelReader]:
    train = CacheFolder.of(split.train_cache)
    made_by, expected = train.manifest.detector, split.manifest.detector
    if made_by["weights_sha256"] != expected["weights_sha256"]:
        raise CacheError(
            f"{split.train_cache}: is of detector weights {made_by['weights_sha256'][:12]}, the "
            f"{split.manifest.split} cache of {expected['weights_sha256'][:12]}: extract both anew"
        )
    return {
        level: stack.enter_context(LevelReader(train, level, verify="on_open"))
        for level in sorted(split.readers)
    }


def _study_one(
    name: str,
    anchor: Anchor,
    split: AnchorSplit,
    train: Mapping[int, LevelReader],
    kept: Kept,
    scratch: Path,
) -> list[AnchorPoint]:
    keys = [_key(anchor, settings, split, train) for settings in anchor.points]
    found = [kept.get(key) for key in keys]
    facts = [None if result is None else result.facts for result in found]
    if any(each is None for each in facts):
        codecs = {
            level: anchor.fit(reader, fitting_indices(reader)) for level, reader in train.items()
        }
        for place, key in enumerate(keys):
            if facts[place] is None:
                at_point = {level: each[place] for level, each in codecs.items()}
                facts[place] = _measure_point(anchor.name, at_point, split, scratch)
                kept.put(key, facts[place] or {}, {})
    return [_point(name, anchor, split, each) for each in facts if each is not None]


def _key(
    anchor: Anchor,
    settings: Mapping[str, Any],
    split: AnchorSplit,
    train: Mapping[int, LevelReader],
) -> dict[str, Any]:
    return {
        "method": _METHOD,
        "anchor": anchor.name,
        "settings": dict(settings),
        **_code_of(anchor),
        "train": next(iter(train.values())).content_id,
        "cache": next(iter(split.readers.values())).content_id,
        "images": split.num_images,
        "levels": sorted(split.readers),
        "derived": list(split.derived),
        # The fingerprint of the cache covers the detector's weights and its settings.
        "detection": [split.device, split.evaluator.truth] if split.evaluator else None,
    }


def _code_of(anchor: Anchor) -> dict[str, str]:
    """What is kept of one's own anchor is of its class and file; ours say so by `_METHOD`."""
    made_by = type(anchor)
    if made_by.__module__.startswith("analyze."):
        return {}
    name = f"{made_by.__module__}:{made_by.__qualname__}"
    return {"class": name, "code": code_of(name)}


def _measure_point(
    title: str, codecs: Mapping[int, AnchorCodec], split: AnchorSplit, scratch: Path
) -> dict[str, Any]:
    """Return what is kept of a point, plain values."""
    indices = range(split.num_images)
    with TemporaryDirectory(dir=scratch, prefix=".anchor-") as folder:
        sources: dict[int, MapSource] = {}
        levels = {}
        for level, reader in sorted(split.readers.items()):
            shapes = [reader.shape(index) for index in indices]
            decoded = DecodedMaps(Path(folder) / f"level_{level}", shapes, reader.value_dtype)
            levels[level] = measure_anchor(title, codecs[level], reader, indices, decoded)
            sources[level] = decoded
        for level in split.derived if split.evaluator else ():
            derivation = split.derivations[level]
            source = sources[derivation.source_level]
            sources[level] = DerivedMaps(source, derivation, split.device)
        is_lossless = all(
            level in split.manifest.derived_levels if level in split.derived else each.mse == 0
            for level, each in levels.items()
        )
        accuracy = None
        if is_lossless and split.as_cached is not None:
            accuracy = split.as_cached()
        elif split.evaluator is not None:
            accuracy = split.evaluator.accuracy(sources)
    _LOG.info(
        "%s, %s: mAP %s", title, codecs[min(codecs)].point, accuracy and f"{accuracy.map:.3f}"
    )
    return {
        "levels": {str(level): dataclasses.asdict(each) for level, each in levels.items()},
        "accuracy": accuracy and dataclasses.asdict(accuracy),
    }


def _point(name: str, anchor: Anchor, split: AnchorSplit, facts: Mapping[str, Any]) -> AnchorPoint:
    levels = {
        int(level): AnchorMeasurement(**values)
        for level, values in sorted(facts["levels"].items(), key=lambda item: int(item[0]))
    }
    sent = [each for level, each in levels.items() if level not in split.derived]
    ideal = [each.ideal_bits_per_pixel for each in sent]
    costs = overhead(split.manifest, split.num_images)
    beside = costs.shared + sum(costs.derived[level] for level in split.derived)
    return AnchorPoint(
        anchor=name,
        title=anchor.name,
        point=sent[0].point,
        levels=levels,
        derived=split.derived,
        bits_per_pixel=sum(each.bits_per_pixel for each in sent) + beside,
        ideal_bits_per_pixel=(
            None if None in ideal else sum(each for each in ideal if each is not None)
        ),
        accuracy=None if facts["accuracy"] is None else Accuracy(**facts["accuracy"]),
    )
