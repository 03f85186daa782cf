"""Whether a split is extracted already: told from its manifest, without detector and torch.

What the detector would say of itself stands in the manifest; if weights, sizes and images are the
same, so is the plan.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from configs.errors import CacheError
from configs.schema.config import Config
from configs.schema.data import CacheConfig
from data.cache.annotations import ANNOTATIONS_NAME, write_annotations
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import statistics_path
from data.cache.commit_log import FILE_NAME as COMMITS_NAME
from data.cache.commit_log import CommitLog
from data.cache.containers import differing_metadata
from data.cache.manifest import FILE_NAME as MANIFEST_NAME
from data.cache.manifest import Manifest
from data.cache.plan import padded_size, plan_samples, resized_size
from data.cache.units_due import levels_due
from data.images.image_sets import image_files
from data.images.records import ImageSet
from data.remote.sending import sending
from extract.detector.freshness import is_made_with

# The levels that torchvision adds above the backbone's: after these comes no other.
_LAST_LEVELS = ("pool", "p7")


def finished_without_detector(folder: Path, images: ImageSet, config: Config) -> bool:
    """Say whether nothing is left to extract, and bring the boxes up to date if so.

    False, and nothing is changed, where work is left, something has to be mended or refused, or
    only the detector itself could tell.
    """
    if not all((folder / name).is_file() for name in (MANIFEST_NAME, COMMITS_NAME)):
        return False
    try:
        with CommitLog(folder):
            there = CacheFolder(folder)
            if not _is_finished(there, images, config):
                return False
            write_annotations(folder / ANNOTATIONS_NAME, images)
            with sending(folder, there.manifest) as sender:
                pass  # what an interrupted run had no time to send
            if sender is not None and not is_complete(CacheFolder(folder), there.manifest):
                return False  # a shard has gone from the store
    except OSError:  # whoever goes on meets it again, and says what it means
        return False
    return True


def is_complete(there: CacheFolder, plan: Manifest) -> bool:
    """Say whether a folder holds this very plan, whole. Raises CacheError if it holds none."""
    return (
        plan.difference_from(there.manifest) is None
        and all(statistics_path(there.path, level.index).exists() for level in plan.levels)
        and not any(levels_due(there.path, plan, there.commits).values())
    )


def _is_finished(there: CacheFolder, images: ImageSet, config: Config) -> bool:
    try:
        made = there.manifest
    except CacheError:
        return False
    if there.committed_sha256 != there.manifest_sha256 or not is_made_with(made, config):
        return False
    plan = _plan_of(made, images, config.cache)
    return (
        plan is not None
        and is_complete(there, plan)
        and not any(differing_metadata(there.path, made, level.index) for level in made.levels)
    )


def _plan_of(made: Manifest, images: ImageSet, config: CacheConfig) -> Manifest | None:
    """Return the plan of these images and settings with the detector of `made`; None: unknown."""
    levels = [level.index for level in made.levels]
    dtype = config.dtype_of(images.split)
    if config.levels is None:
        is_all = levels == list(range(len(levels))) and made.levels[-1].key in _LAST_LEVELS
    else:
        is_all = levels == sorted(set(config.levels))
    shapes = {(x.height_px, x.width_px): x.level_shapes for x in made.buckets}
    detector = made.detector
    sizes = [
        resized_size(
            record.height, record.width,
            min_size=detector["min_size"], max_size=detector["max_size"],
            fixed=tuple(reversed(detector["resize"])) if detector["resize"] else None,
        )
        for record in images.records
    ]  # fmt: skip
    divisible = detector["size_divisible"]
    if not is_all or any(padded_size(*size, divisible) not in shapes for size in sizes):
        return None
    buckets, samples = plan_samples(
        images.records, sizes, levels=made.levels, shapes_of=lambda *size: shapes[size],
        divisible=divisible, bytes_per_value=np.dtype(dtype).itemsize,
        max_shard_bytes=int(config.shard_megabytes * 2**20),
    )  # fmt: skip
    return dataclasses.replace(
        made, container=config.container, dtype=dtype, crop=config.crop,
        buckets=buckets, samples=samples, augmentation=images.augmentation, decoded_from=None,
        image_files=image_files(images),
    )  # fmt: skip
