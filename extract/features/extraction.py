"""Run the detector's backbone once over a split and store its levels: the extraction itself."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from configs.cores import usable_cores
from configs.errors import CacheError, ConfigError
from configs.log_setup import bar_interval_s
from configs.schema.data import CacheConfig, DetectorConfig
from data.cache.cache_folder import CacheFolder
from data.cache.channel_statistics import statistics_path
from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest, format_version
from data.cache.manifest_parts import SkippedInfo
from data.cache.plan import (
    Unit,
    choose_levels,
    cropped_shapes,
    plan_samples,
    resized_size,
)
from data.images.image_sets import image_files, read_image
from data.images.records import ImageSet
from data.remote.sending import sending
from data.writing.settle import settle_cache
from data.writing.writer import CacheWriter
from extract.detector.loading import LoadedDetector, describe_detector, prepare_images
from extract.detector.pyramid import level_shapes, measure_levels
from extract.features.busy_times import BusyTimes
from extract.features.channel_codes import with_codes
from extract.features.finished import is_complete
from extract.features.maps import Maps
from extract.features.pipeline import computed_maps, usual_num_workers, written

log = logging.getLogger(__name__)

_MOST_WRITING_THREADS = 8

Elsewhere = Callable[[CacheFolder, Manifest, CacheWriter], Generator[tuple[int, int], None, None]]
"""Has a cache's pending units stored, hands them out and takes them back; yields (images, bytes) as
they are committed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """What one run of `extract` did."""

    num_images: int
    num_new_images: int
    num_new_bytes: int
    seconds: float
    busy: dict[str, float] = dataclasses.field(default_factory=dict)
    """{stage: share of the seconds in which it was at work}, as `BusyTimes.shares` has it."""


def plan_extraction(
    dataset: str,
    images: ImageSet,
    detector: LoadedDetector,
    config: DetectorConfig,
    cache: CacheConfig,
) -> Manifest:
    """Return the manifest of a split: a pure function of image list, detector and settings.

    The codes of an 8-bit cache are not in it: `extract` finds them, or takes those that are there.
    """
    dtype = cache.dtype_of(images.split)
    transform = detector.model.transform
    sizes = [
        resized_size(
            record.height,
            record.width,
            min_size=transform.min_size[-1],
            max_size=transform.max_size,
            fixed=transform.fixed_size,
        )
        for record in images.records
    ]
    for record, size in zip(images.records, sizes, strict=True):
        if min(size) == 0:
            raise ConfigError(
                f"{record.file}: {record.height}x{record.width} px would be resized to "
                f"{size[0]}x{size[1]}: raise detector.max_size or leave the image out"
            )
    shapes_of = level_shapes(detector.model)
    batch, _ = prepare_images(detector.model, [read_image(images.records[0].file)])
    found = measure_levels(detector.model, batch, shapes_of)
    levels = choose_levels(found, cache.levels)
    if cache.crop is not None:
        shapes_of = cropped_shapes(shapes_of, cache.crop)
        # Each level is cropped at a place of its own, so that no crop can be derived from another.
        levels = [dataclasses.replace(level, derived_from=None) for level in levels]
    buckets, samples = plan_samples(
        images.records,
        sizes,
        levels=levels,
        shapes_of=shapes_of,
        divisible=transform.size_divisible,
        bytes_per_value=np.dtype(dtype).itemsize,
        max_shard_bytes=int(cache.shard_megabytes * 2**20),
    )
    return Manifest(
        format_version=format_version(dtype),
        dataset=dataset,
        split=images.split,
        container=cache.container,
        dtype=dtype,
        crop=cache.crop,
        detector=describe_detector(detector, config),
        levels=tuple(levels),
        buckets=buckets,
        samples=samples,
        image_limit=images.limit,
        augmentation=images.augmentation,
        image_files=image_files(images),
        skipped=tuple(SkippedInfo(file=bad.file, reason=bad.reason) for bad in images.skipped),
    )


def extract(
    folder: Path | str,
    manifest: Manifest,
    images: ImageSet,
    model: Any,
    *,
    batch_size: int | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
    elsewhere: Elsewhere | None = None,
) -> Extracted:
    """Write the split's cache into `folder`; goes on where an earlier run stopped.

    In memory at any time, on a CPU: the feature maps of two batches and two images; on a GPU: three
    batches of decoded images, and the maps of four. `batch_size` None: as many images as the CPU
    has cores (16 at most), on a GPU as many as have four megapixels, and sixteen before they are
    resized. `num_workers` threads decode for a GPU; None: all cores but two (2 to 16). `elsewhere`
    stores what is pending instead of this process.

    Raises CacheError if the folder holds another plan's cache and `overwrite` is not set.
    """
    start, folder = time.monotonic(), Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        commit_log = CommitLog(folder)
    except OSError as error:
        there = CacheFolder(folder)
        if there.manifest_sha256 is not None:
            if (difference := manifest.difference_from(there.manifest)) is not None:
                raise CacheError(
                    f"{folder}: cannot be written ({error.strerror}), and holds a cache of another "
                    f"plan ({difference}): use the settings that made it, or choose another "
                    "--features"
                ) from error
            if is_complete(there, manifest):
                # A finished cache on a read-only disk: there is nothing to write.
                return Extracted(
                    num_images=len(manifest.samples), num_new_images=0, num_new_bytes=0, seconds=0.0
                )
        raise CacheError(
            f"{folder}: cannot be written ({error.strerror}): choose another --features"
        ) from error
    with commit_log:
        num_new, num_bytes, busy = 0, 0, BusyTimes()
        try:
            manifest = with_codes(folder, manifest, model, overwrite=overwrite)
            settled = settle_cache(folder, manifest, images, commit_log, overwrite=overwrite)
            with (
                sending(folder, manifest) as sender,
                closing(
                    CacheWriter(
                        settled,
                        manifest,
                        commit_log,
                        num_threads=writing_threads(model),
                        sender=sender,
                    )
                ) as writer,
            ):
                pending = writer.pending
                writer.prepare()
                num_new = sum(unit.num_rows for unit in pending)
                done = len(manifest.samples) - num_new
                if done and num_new:
                    log.info("%s: %d of %d images are there", folder, done, len(manifest.samples))

                def write(unit: Unit, maps: Maps) -> int:
                    with busy.measured("write"):
                        return writer.write(unit, maps)

                if elsewhere is None:
                    batches = computed_maps(
                        model,
                        manifest,
                        pending,
                        batch_size=batch_size,
                        num_workers=num_workers or usual_num_workers(),
                        busy=busy,
                    )
                    storing: Generator[tuple[int, int], None, None] = written(batches, write)
                else:
                    storing = elsewhere(settled, manifest, writer)
                with closing(storing), _bar(num_new if show_progress else 0) as bar:
                    for num_images, its_bytes in storing:
                        num_bytes += its_bytes
                        rate = num_bytes / 1e6 / max(1e-9, time.monotonic() - start)
                        # Shown by the bar's next line: at once would be a line for every batch.
                        bar.set_postfix_str(
                            f"{rate:.0f} MB/s, {num_bytes / 1e9:.2f} GB written", refresh=False
                        )
                        bar.update(num_images)
                if num_new or not _has_statistics(folder, manifest):
                    writer.finish()
        except OSError as error:
            raise CacheError(
                f"{error.filename or folder}: cannot be written ({error.strerror or error}): "
                "nothing committed is lost, mend it and run the same command again"
            ) from error
    seconds = time.monotonic() - start
    return Extracted(
        num_images=len(manifest.samples),
        num_new_images=num_new,
        num_new_bytes=num_bytes,
        seconds=seconds,
        busy=busy.shares(seconds),
    )


def writing_threads(model: Any) -> int:
    """Return one on a CPU, whose cores compute; several beside a GPU, which is faster than one."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    return 1 if on_cpu else min(_MOST_WRITING_THREADS, usable_cores())


def _has_statistics(folder: Path, manifest: Manifest) -> bool:
    return all(statistics_path(folder, level.index).exists() for level in manifest.levels)


def _bar(total: int) -> tqdm[Any]:
    return tqdm(
        total=total, unit="image", desc="extract", disable=total == 0, dynamic_ncols=True,
        mininterval=bar_interval_s(), leave=os.isatty(2),
    )  # fmt: skip
