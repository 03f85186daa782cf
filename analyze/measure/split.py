"""One split under analysis: its cache, its boxes, and the detector whose heads judge it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from analyze.detection.heads_on_levels import backbone_keys
from analyze.detection.split_evaluator import SplitEvaluator
from analyze.facts.results import Found, LevelFacts
from analyze.streams.unsent_levels import KnownMeans, training_cache
from configs.errors import CacheError, ConfigError
from configs.schema.config import Config
from configs.schema.data import DetectorConfig
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import FILE_NAME, Manifest
from data.images.records import ImageRecord, ImageSet
from data.reading.level_reader import LevelReader
from extract.detector.class_labels import label_to_category, num_labels
from extract.detector.freshness import refuse_other_detector, refuse_stale_cache
from extract.detector.loading import load_detector


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

    @property
    def manifest(self) -> Manifest:
        """The cache's plan."""
        return self.cache.manifest

    @property
    def num_pixels(self) -> int:
        """Pixels of the original images that are analysed."""
        return sum(each.height * each.width for each in self.manifest.samples[: self.num_images])

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


@contextmanager
def open_split(
    cache: CacheFolder, split: str, config: Config, *, device: str, limit: int | None, options: str
) -> Iterator[Split]:
    """Open a split's cache and, if there are boxes, the detector's heads.

    The first `limit` images are analysed; `options` are what commands in messages need to reach the
    same data. Raises CacheError without a cache of the split, if it is stale, or if it holds crops.
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
        if boxes.result is not None:
            found = _evaluator(boxes.result, readers, num_images, config.detector, device, options)
        yield Split(
            cache=cache,
            train=train,
            means=KnownMeans(cache, train),
            readers=readers,
            num_images=num_images,
            annotations=boxes.result,
            evaluator=found.result,
            missing=found.missing,
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


def _counts(record: ImageRecord, categories: Collection[int]) -> bool:
    """Say whether an image has a box that COCO's evaluation looks for."""
    return any(
        not ignored and category in categories
        for category, ignored in zip(
            record.category_ids.tolist(), record.ignored.tolist(), strict=True
        )
    )


def _evaluator(
    annotations: ImageSet,
    readers: dict[int, LevelReader],
    num_images: int,
    config: DetectorConfig,
    device: str,
    options: str,
) -> Found[SplitEvaluator | None]:
    """Return what runs detection, or why it cannot be run."""
    cache = next(iter(readers.values())).folder
    manifest = cache.manifest
    try:
        detector = load_detector(config, device)
        labels = label_to_category(
            detector.classes, num_labels(detector.model), annotations.categories
        )
    except ConfigError as error:
        return Found(None, (f"no mAP: the detector cannot be built: {error}",))
    analysed = {sample.image_id for sample in manifest.samples[:num_images]}
    if not any(_counts(record, labels.values()) for record in annotations.records
               if record.image_id in analysed):  # fmt: skip
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
    return Found(
        SplitEvaluator(
            detector=detector.model,
            readers=readers,
            indices=range(num_images),
            annotations=cache.path / ANNOTATIONS_NAME,
            label_to_category=labels,
        )
    )
