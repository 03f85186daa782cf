"""One split under analysis: its cache, its boxes, and the detector whose heads judge it."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from analyze.detection.heads_on_levels import backbone_keys
from analyze.detection.split_evaluator import SplitEvaluator
from analyze.facts.results import Found, LevelFacts
from analyze.streams.unsent_levels import KnownMeans, training_cache
from configs.errors import CacheError, ConfigError, did_you_mean
from configs.own_code import is_own
from configs.schema.config import Config
from configs.schema.data import DEFAULT_BUILDER, DetectorConfig
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import FILE_NAME, Manifest
from data.images.records import ImageSet
from data.reading.level_reader import LevelReader
from extract.detector.class_labels import head_of, match_labels, unknown_classes
from extract.detector.freshness import refuse_old_boxes, refuse_other_detector, refuse_stale_cache
from extract.detector.loading import load_detector
from extract.detector.own_detector import identity_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """An open cache; `evaluator` is None where detection cannot be run, and `missing` says why."""

    cache: CacheFolder
    train: CacheFolder
    """The training split's cache beside it, which need not be there."""
    means: KnownMeans
    readers: dict[int, LevelReader]
    num_images: int
    annotations: ImageSet | None
    evaluator: SplitEvaluator | None
    missing: tuple[str, ...]
    only_classes: tuple[str, ...] = ()
    """Names of the categories that are evaluated, if not all of them are."""

    @property
    def manifest(self) -> Manifest:
        """The cache's plan."""
        return self.cache.manifest

    @property
    def num_pixels(self) -> int:
        """Pixels of the original images that are analysed."""
        return sum(each.height * each.width for each in self.manifest.samples[: self.num_images])

    @property
    def num_input_pixels(self) -> int:
        """Pixels of the same images as the detector resizes them, before padding."""
        samples = self.manifest.samples[: self.num_images]
        return sum(each.input_height * each.input_width for each in samples)

    def facts(self) -> dict[int, LevelFacts]:
        """Return every cached level's facts, finest first."""
        return {facts.level: facts for facts in level_facts(self.manifest)}


def has_cache(cache: CacheFolder) -> bool:
    """Say whether the split has been extracted, or begun to be."""
    return (cache.path / FILE_NAME).is_file()


def missing_cache(cache: CacheFolder, split: str, options: str) -> CacheError:
    """Return the error of a split without a cache; `options` are what its command needs."""
    return CacheError(
        f"{cache}: no cache of the split {split!r}: run extract-features --split {split}{options}"
    )


def cache_beside(cache: CacheFolder, split: str, options: str) -> CacheFolder:
    """Return the cache of another split of the same features; `options` as of `missing_cache`.

    Raises ConfigError for the same split, CacheError if there is none, or one of another detector
    or of other levels.
    """
    beside = CacheFolder(cache.path.with_name(split))
    if beside.path == cache.path:
        raise ConfigError(
            f"--choose-on {split}: is the split that is measured: name another, or --cross-fit 5"
        )
    if not has_cache(beside):
        raise missing_cache(beside, split, options)
    here, there = cache.manifest, beside.manifest
    for what, own, other in (
        ("detector weights", *(each.detector["weights_sha256"][:12] for each in (here, there))),
        ("levels", *(_levels_in_words(each) for each in (here, there))),
    ):
        if own != other:
            raise CacheError(
                f"{beside}: its {what} are {other}, those of {cache} are {own}: extract both "
                f"splits alike: run extract-features --split {split}{options}"
            )
    return beside


def _levels_in_words(manifest: Manifest) -> str:
    return "; ".join(
        f"{each.index} ({each.key}, {each.num_channels} channels, stride {each.stride_px}"
        + (")" if each.derived_from is None else f", derived from {each.derived_from})")
        for each in manifest.levels
    )


@contextmanager
def open_split(
    cache: CacheFolder,
    split: str,
    config: Config,
    *,
    device: str,
    limit: int | None,
    classes: Sequence[str] = (),
    options: str,
) -> Iterator[Split]:
    """Open a split's cache and, if there are boxes, the detector's heads.

    The first `limit` images are analysed, detection on `classes` alone if there are any; `options`
    are what commands in messages need to reach the same data. Raises CacheError without a cache of
    the split, if it or its boxes are stale, or if it holds crops; ConfigError for a class that the
    data set does not have.
    """
    if not has_cache(cache):
        raise missing_cache(cache, split, options)
    manifest = cache.manifest
    refuse_stale_cache(cache, split, config)
    manifest.require_whole_maps()
    num_images = min(len(manifest.samples), limit or len(manifest.samples))
    train = training_cache(cache)
    with ExitStack() as stack:
        readers = {
            info.index: stack.enter_context(
                # Whatever the configuration says: what is measured is printed, and kept.
                LevelReader(cache, info.index, verify="on_open")
            )
            for info in manifest.levels
        }
        boxes = _boxes(cache, split, options)
        found: Found[SplitEvaluator | None] = Found(None, boxes.missing)
        only: dict[int, str] = {}
        if boxes.result is not None:
            refuse_old_boxes(cache, boxes.result, config, options)
            only = _chosen(classes, boxes.result.categories)
            found = _evaluator(
                boxes.result, only, readers, num_images, config.detector, device, options
            )
        yield Split(
            cache=cache,
            train=train,
            means=KnownMeans(cache, train),
            readers=readers,
            num_images=num_images,
            annotations=boxes.result,
            evaluator=found.result,
            missing=found.missing,
            only_classes=tuple(only.values()),
        )


def level_facts(manifest: Manifest) -> list[LevelFacts]:
    """Return every cached level's facts, finest first; resolution is that of the fullest bucket."""
    fullest = max(manifest.buckets, key=lambda bucket: bucket.num_samples)
    elements: Counter[int] = Counter()
    for bucket in manifest.buckets:
        for info in manifest.levels:
            height, width = bucket.level_shapes[info.index]
            elements[info.index] += bucket.num_samples * height * width * info.num_channels
    return [
        LevelFacts(
            level=info.index,
            key=info.key,
            stride_px=info.stride_px,
            num_channels=info.num_channels,
            resolution_hw=fullest.level_shapes[info.index],
            share=elements[info.index] / elements.total(),
        )
        for info in manifest.levels
    ]


def _boxes(cache: CacheFolder, split: str, options: str) -> Found[ImageSet | None]:
    try:
        images = read_annotations(cache.path / ANNOTATIONS_NAME, split)
    except CacheError as error:
        return Found(None, (f"no mAP: {error}",))
    if not images.categories:
        return Found(None, (
            f"no mAP: the split {split!r} was extracted without boxes: name "
            f"data.splits.{split}.annotations in the configuration, then run "
            f"extract-features --split {split}{options}",
        ))  # fmt: skip
    return Found(images)


def _chosen(classes: Sequence[str], categories: Mapping[int, str]) -> dict[int, str]:
    """Return the categories of these names; ConfigError for a name that there is not."""
    names = list(categories.values())
    for name in classes:
        if name not in names:
            hint = did_you_mean(name, names) or f": the classes are {', '.join(names)}"
            raise ConfigError(f"--classes: the data set has no class {name!r}{hint}")
    return {category: name for category, name in categories.items() if name in classes}


def _counted(annotations: ImageSet, image_ids: Collection[int]) -> Counter[int]:
    """Return category id -> number of boxes that COCO's evaluation looks for, in these images."""
    counted: Counter[int] = Counter()
    for record in annotations.records:
        if record.image_id in image_ids:
            counted.update(record.category_ids[~record.ignored].tolist())
    return counted


def _evaluator(
    annotations: ImageSet,
    only: Mapping[int, str],
    readers: dict[int, LevelReader],
    num_images: int,
    config: DetectorConfig,
    device: str,
    options: str,
) -> Found[SplitEvaluator | None]:
    """Return what runs detection, and what its mAP is to be read with; or why it cannot be run."""
    cache = next(iter(readers.values())).folder
    manifest = cache.manifest
    try:
        detector = load_detector(config, device)
    except ConfigError as error:
        return Found(None, (f"no mAP: the detector cannot be built: {error}",))
    try:
        match = match_labels(detector.classes, head_of(detector.model), annotations.categories)
    except ConfigError as error:
        return Found(None, (f"no mAP: {error}",))
    (_LOG.warning if match.is_guess else _LOG.info)("%s", match.how)
    categories = only or annotations.categories
    counted = _counted(annotations, {each.image_id for each in manifest.samples[:num_images]})
    if not any(
        counted[category] for category in match.category_of.values() if category in categories
    ):
        return Found(None, (
            f"no mAP: none of the {num_images} images has a box that counts, of a class that the "
            "detector knows: analyse more of them (--limit), or correct the annotations",
        ))  # fmt: skip
    # Weights that had to be downloaded first could not be compared without that.
    refuse_other_detector(manifest, cache.path, detector, config)
    held = {info.key for info in manifest.levels}
    absent = [key for key in backbone_keys(detector.model) if key not in held]
    if absent:
        return Found(None, (
            f"no mAP: the heads need the levels {', '.join(absent)}, which this cache does not "
            f"hold: run extract-features --split {manifest.split}{options} for all levels",
        ))  # fmt: skip
    notes = [match.how] if match.is_guess else []
    if unknown := unknown_classes(match.category_of, categories, counted):
        known = [
            categories[x] for x in categories if x in match.category_of.values() and counted[x]
        ]
        notes.append(
            f"mAP counts AP 0 for the classes that the detector does not know: {unknown}: leave "
            f"them out with --classes {shlex.quote(','.join(known))}, or use a detector trained on "
            "them"
        )
        _LOG.warning("%s", notes[-1])
    builder = config.builder or DEFAULT_BUILDER
    return Found(
        SplitEvaluator(
            detector=detector.model,
            readers=readers,
            indices=range(num_images),
            annotations=cache.path / ANNOTATIONS_NAME,
            label_to_category=match.category_of,
            category_ids=tuple(only) or None,
            own_detector=identity_of(detector.model, builder) if is_own(builder) else "",
        ),
        tuple(notes),
    )
