"""Refuse a cache that the configuration in force would not have made; no detector if it can be.

What needs no detector is compared as it is written. The weights' file is compared by its hash; only
if that differs is the detector built, since the hash of the weights themselves is the truth.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from configs.errors import CacheError, ConfigError, MissingDataError
from configs.given_files import is_file
from configs.own_code import is_own
from configs.schema.config import Config
from configs.schema.data import DEFAULT_BUILDER, DetectorConfig
from data.cache.annotations import ANNOTATIONS_NAME, boxes_difference
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import Manifest
from data.cache.manifest_parts import detector_difference
from data.images.files import UPRIGHT, split_orientation
from data.images.listing import ListedImage, list_files
from data.images.records import ImageSet
from data.images.views import is_view
from extract.detector.weights import file_sha256, weights_file

if TYPE_CHECKING:
    from extract.detector.loading import LoadedDetector

_LOG = logging.getLogger(__name__)


def refuse_stale_cache(cache: CacheFolder | Path | str, split: str, config: Config) -> None:
    """Compare a split's cache with the configuration; what is not on this machine is logged.

    Raises CacheError, naming the first difference and the way out.
    """
    folder = CacheFolder.of(cache)
    manifest, cache = folder.manifest, folder.path
    difference = _settings_difference(manifest, split, config)
    if difference is not None:
        raise CacheError(
            f"{cache}: was not made with these settings ({difference}): name the configuration "
            f"that made it with --config, {_elsewhere(split)}"
        )
    _compare_detector(manifest, cache, config.detector)
    try:
        difference = _image_difference(manifest, list_files(config.data, split))
    except MissingDataError as error:
        _LOG.info("%s: its images could not be compared with the data set: %s", cache, error)
        return
    if difference is not None:
        raise CacheError(
            f"{cache}: is of another image list ({difference}): correct the paths of "
            f"data.splits.{split}, {_elsewhere(split)}"
        )


def refuse_old_boxes(cache: CacheFolder, boxes: ImageSet, config: Config, options: str) -> None:
    """Compare a cache's boxes, categories and ignore flags with the data set's as they are now.

    `options` are what a command in the message needs to reach the same data. What is not on this
    machine is logged; a configuration without boxes says nothing of them. Raises CacheError, with
    the file, the first difference and the way out, if they were corrected since the extraction.
    """
    # Late: training compares a cache with its settings, too, and reads no boxes.
    from data.images.image_sets import positions, read_images

    manifest, split, data = cache.manifest, cache.manifest.split, config.data
    if data.format == "scenes":  # they are drawn with their boxes
        return
    try:
        now = read_images(data, split, skip_bad=True)
        places = [place for place, _ in _taken(manifest, list_files(data, split))]
    except MissingDataError as error:
        _LOG.info("%s: its boxes could not be compared with the data set: %s", cache, error)
        return
    if not now.categories:
        return
    record_at = dict(zip(positions(now.skipped), now.records, strict=False))
    whole = [record for record in boxes.records if not is_view(record.file)]
    absent = sum(place not in record_at for place in places)
    if absent:
        _LOG.warning(
            "%s: the boxes of %d of its %d images could not be compared with the data set, as "
            "these images are not on this machine: they are as they were when it was extracted",
            cache, absent, len(places),
        )  # fmt: skip
    difference = None
    if boxes.categories != now.categories:
        difference = f"categories: {boxes.categories} there, {now.categories} now"
    for place, there in zip(places, whole, strict=True):
        if difference is None and place in record_at:
            found = boxes_difference(there, record_at[place])
            difference = found and f"{record_at[place].file}: {found}"
    if difference is not None:
        named = data.splits[split].annotations or f"what {data.format} reads"
        raise CacheError(
            f"{cache.path / ANNOTATIONS_NAME}: holds other boxes than {named} ({difference}): "
            f"{_bring_up_to_date(manifest, config, options)}"
        )


def _bring_up_to_date(manifest: Manifest, config: Config, options: str) -> str:
    """Return what to do, with the options that made the cache if the configuration lacks them."""
    if manifest.decoded_from is not None:
        return (
            f"run extract-features --split {manifest.split}{options} for the cache that was "
            "compressed, then compress-features and decompress-features again: all three take the "
            "boxes over, and compute nothing that is there"
        )
    levels = [level.index for level in manifest.levels]
    given = {
        "--limit": manifest.image_limit,
        "--crop": None if manifest.crop == config.cache.crop else manifest.crop,
        "--dtype": None
        if manifest.dtype == config.cache.dtype_of(manifest.split)
        else manifest.dtype,
        "--container": None if manifest.container == config.cache.container else manifest.container,
        "--levels": None
        if config.cache.levels or levels == list(range(len(levels)))
        else ",".join(map(str, levels)),
    }
    more = "".join(f" {name} {value}" for name, value in given.items() if value is not None)
    more += " --skip-bad-images" * bool(manifest.skipped)
    return (
        f"run extract-features --split {manifest.split}{options}{more}, which takes the boxes over "
        "and computes no feature that is there"
    )


def refuse_other_detector(
    manifest: Manifest, cache: Path, detector: LoadedDetector, config: DetectorConfig
) -> None:
    """Compare a cache with a built detector. Raises CacheError naming the difference."""
    from extract.detector.loading import describe_detector

    there, now = manifest.detector, describe_detector(detector, config)
    if there["weights_sha256"] != now["weights_sha256"]:
        raise CacheError(
            f"{cache}: holds features of detector weights {_shown(there)}, the configuration names "
            f"{_shown(now)}: name the checkpoint that made the cache with --detection-checkpoint, "
            f"{_elsewhere(manifest.split)}"
        )
    difference = detector_difference(there, now)
    if difference is not None:
        raise CacheError(
            f"{cache}: was not made with these settings ({difference}): name the configuration "
            f"that made it with --config, {_elsewhere(manifest.split)}"
        )


def _elsewhere(split: str) -> str:
    """The way out that leaves the cache as it is: it may be right, and the settings wrong."""
    return f"or extract anew into another folder: extract-features --split {split} --features DIR"


def _settings_difference(manifest: Manifest, split: str, config: Config) -> str | None:
    """Compare what the configuration says itself; None of a size means the builder's own."""
    there, detector, cache = manifest.detector, config.detector, config.cache
    pairs: list[tuple[str, Any, Any]] = [
        ("dataset", manifest.dataset, config.data.name),
        ("split", manifest.split, split),
        ("detector builder", there["builder"], detector.builder or DEFAULT_BUILDER),
        ("detector resize", there["resize"], list(detector.resize) if detector.resize else None),
    ]
    if split in config.data.splits:
        augmentation = config.data.splits[split].augmentation
        now_drawn = None if augmentation is None else augmentation.model_dump(mode="json")
        pairs.append(("augmentation", manifest.augmentation, now_drawn))
    if (exif := _exif_of(manifest)) is not None:
        pairs.append(("exif", exif, config.data.exif))
    for name in ("min_size", "max_size"):
        if (size := getattr(detector, name)) is not None:
            pairs.append((f"detector {name}", there[name], size))
    # An option of extract-features may have chosen them, so only what somebody wrote counts.
    if cache.names_dtype_of(split):
        pairs.append(("dtype", manifest.dtype, cache.dtype_of(split)))
    if "container" in cache.model_fields_set:
        pairs.append(("container", manifest.container, cache.container))
    for name, made_with, now in pairs:
        if made_with != now:
            return f"{name}: {made_with!r} there, {now!r} now"
    return None


def _exif_of(manifest: Manifest) -> str | None:
    """Return the `data.exif` that made a cache; None if none of its images would be turned."""
    found = {split_orientation(sample.file)[1] for sample in manifest.samples} - {None}
    if not found:
        return None
    return "ignore" if found == {UPRIGHT} else "apply"


def _compare_detector(manifest: Manifest, cache: Path, config: DetectorConfig) -> None:
    file = weights_file(config)
    if file is not None and not is_file(file):
        _LOG.info(
            "%s: its detector weights %s could not be compared: %s is not on this machine",
            cache, _shown(manifest.detector), file,
        )  # fmt: skip
        return
    if _is_known_to_be(manifest, config, file):
        return
    # Training has no other use for a detector, and is to start without one.
    from extract.detector.loading import load_detector

    try:
        detector = load_detector(config)
    except (ConfigError, OSError) as error:
        if not _is_own_factory(config):
            raise
        _LOG.info("%s: its detector could not be compared: %s", cache, error)
        return
    refuse_other_detector(manifest, cache, detector, config)


def is_made_with(manifest: Manifest, config: Config) -> bool:
    """Say whether a cache's detector and data set are surely the configured ones.

    It is said without building the detector, so False where only that could tell.
    """
    named = config.detector.checkpoint is None  # by torchvision, which is to be asked for the file
    if named or _settings_difference(manifest, manifest.split, config) is not None:
        return False
    return _is_known_to_be(manifest, config.detector, weights_file(config.detector))


def _is_known_to_be(manifest: Manifest, config: DetectorConfig, file: Path | None) -> bool:
    return (
        file is not None
        and not _is_own_factory(config)  # whose preprocessing may have changed since
        and file_sha256(file) == manifest.detector["weights_file_sha256"]
        and _sizes_are_known(manifest, config)
    )


def _is_own_factory(config: DetectorConfig) -> bool:
    return is_own(config.builder or DEFAULT_BUILDER)


def _sizes_are_known(manifest: Manifest, config: DetectorConfig) -> bool:
    """Whether sizes that the configuration leaves to the builder were so at extraction too."""
    configured = manifest.detector["configured"]
    return all(
        getattr(config, name) is not None or configured[name] is None
        for name in ("min_size", "max_size")
    )


def _image_difference(manifest: Manifest, listed: list[ListedImage]) -> str | None:
    """Compare the split's listing, less what extraction left out of it, with the samples."""
    now = [image for _, image in _taken(manifest, listed)]
    there = [sample for sample in manifest.samples if not is_view(sample.file)]
    if len(now) != len(there):
        return f"images: {len(there)} there, {len(now)} now"
    for image, sample in zip(now, there, strict=True):
        if not image.is_in(sample.file):
            return f"image list: {sample.file} there, {image.name} now"
        if image.image_id not in (None, sample.image_id):
            return (
                f"image list: {image.name} is image {sample.image_id} there, {image.image_id} now"
            )
    return None


def _taken(manifest: Manifest, listed: list[ListedImage]) -> list[tuple[int, ListedImage]]:
    """Return the images of a listing that extraction did not leave out, with their places in it."""
    left_out: dict[str, list[str]] = defaultdict(list)
    for bad in manifest.skipped:
        left_out[_first_word(bad.file)].append(bad.file)
    return [
        (place, image)
        for place, image in enumerate(listed[: manifest.image_limit])
        if not any(image.is_in(file) for file in left_out.get(_first_word(image.name), ()))
    ]


def _first_word(file: str) -> str:
    """The name up to its first dot: the same with and without its ending."""
    return PurePath(file).name.split(".")[0]


def _shown(detector: dict[str, Any]) -> str:
    source = detector["checkpoint"] or detector["weights"] or detector["builder"]
    return f"{detector['weights_sha256'][:12]} ({source})"
