"""One split under analysis: its cache, its boxes, and the detector whose heads judge it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from analyze.detection.heads_on_levels import backbone_keys
from analyze.detection.split_evaluator import SplitEvaluator
from analyze.facts.results import LevelFacts
from configs.errors import CacheError, ConfigError
from configs.schema.config import Config
from data.cache.annotations import ANNOTATIONS_NAME, read_annotations
from data.cache.manifest import FILE_NAME, Manifest
from data.images.records import ImageRecord, ImageSet
from data.reading.level_reader import LevelReader
from extract.detector.class_labels import label_to_category, num_labels
from extract.detector.freshness import refuse_other_detector, refuse_stale_cache
from extract.detector.loading import load_detector


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalysisRequest:
    """What to analyse. `options` is what commands in messages need to reach the same data."""

    cache: Path
    split: str
    checkpoints: Path
    run_dirs: tuple[Path, ...]
    config: Config
    device: str
    limit: int | None
    options: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """An open cache; `evaluator` is None where detection cannot be run, and `missing` says why."""

    cache: Path
    manifest: Manifest
    readers: dict[int, LevelReader]
    num_images: int
    annotations: ImageSet | None
    evaluator: SplitEvaluator | None
    missing: list[str] = field(default_factory=list)

    @property
    def num_pixels(self) -> int:
        """Pixels of the original images that are analysed."""
        return sum(each.height * each.width for each in self.manifest.samples[: self.num_images])

    def facts(self) -> dict[int, LevelFacts]:
        """Return every cached level's facts, finest first."""
        return {facts.level: facts for facts in level_facts(self.manifest)}


def has_cache(request: AnalysisRequest) -> bool:
    """Say whether the split has been extracted, or begun to be."""
    return (request.cache / FILE_NAME).is_file()


def missing_cache(request: AnalysisRequest) -> CacheError:
    """Return the error of a split without a cache."""
    return CacheError(
        f"{request.cache}: no cache of the split {request.split!r}: "
        f"run extract-features --split {request.split}{request.options}"
    )


@contextmanager
def open_split(request: AnalysisRequest) -> Iterator[Split]:
    """Open a split's cache and, if there are boxes, the detector's heads.

    Raises CacheError without a cache of the split, if it is stale, or if it holds crops.
    """
    if not has_cache(request):
        raise missing_cache(request)
    manifest = Manifest.load(request.cache)
    refuse_stale_cache(request.cache, request.split, request.config)
    manifest.require_whole_maps()
    num_images = min(len(manifest.samples), request.limit or len(manifest.samples))
    missing: list[str] = []
    with ExitStack() as stack:
        readers = {
            info.index: stack.enter_context(
                # Whatever the configuration says: what is measured is printed, and kept.
                LevelReader(request.cache, info.index, verify="on_open")
            )
            for info in manifest.levels
        }
        annotations = _annotations(request, missing)
        yield Split(
            cache=request.cache,
            manifest=manifest,
            readers=readers,
            num_images=num_images,
            annotations=annotations,
            evaluator=_evaluator(request, manifest, readers, num_images, annotations, missing),
            missing=missing,
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


def _annotations(request: AnalysisRequest, missing: list[str]) -> ImageSet | None:
    try:
        images = read_annotations(request.cache / ANNOTATIONS_NAME, request.split)
    except CacheError as error:
        missing.append(f"no mAP: {error}")
        return None
    if not images.categories:
        missing.append(
            f"no mAP: the split {request.split!r} was extracted without boxes: name its "
            "annotations in the configuration and run extract-features again"
        )
        return None
    return images


def _counts(record: ImageRecord, categories: Collection[int]) -> bool:
    """Say whether an image has a box that COCO's evaluation looks for."""
    return any(
        not ignored and category in categories
        for category, ignored in zip(
            record.category_ids.tolist(), record.ignored.tolist(), strict=True
        )
    )


def _evaluator(
    request: AnalysisRequest,
    manifest: Manifest,
    readers: dict[int, LevelReader],
    num_images: int,
    annotations: ImageSet | None,
    missing: list[str],
) -> SplitEvaluator | None:
    """Return what runs detection, or None with the reason added to `missing`."""
    if annotations is None:
        return None
    try:
        detector = load_detector(request.config.detector, request.device)
        labels = label_to_category(
            detector.classes, num_labels(detector.model), annotations.categories
        )
    except ConfigError as error:
        missing.append(f"no mAP: the detector cannot be built: {error}")
        return None
    analysed = {sample.image_id for sample in manifest.samples[:num_images]}
    if not any(_counts(record, labels.values()) for record in annotations.records
               if record.image_id in analysed):  # fmt: skip
        missing.append(
            f"no mAP: none of the {num_images} images has a box that counts, of a class that the "
            "detector knows: analyse more of them (--limit), or correct the annotations"
        )
        return None
    # Weights that had to be downloaded first could not be compared without that.
    refuse_other_detector(manifest, request.cache, detector, request.config.detector)
    held = {info.key for info in manifest.levels}
    absent = [key for key in backbone_keys(detector.model) if key not in held]
    if absent:
        missing.append(
            f"no mAP: the heads need the levels {', '.join(absent)}, which this cache does not "
            f"hold: run extract-features --split {request.split}{request.options} for all levels"
        )
        return None
    return SplitEvaluator(
        detector=detector.model,
        readers=readers,
        indices=range(num_images),
        annotations=request.cache / ANNOTATIONS_NAME,
        label_to_category=labels,
    )
