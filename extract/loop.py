"""Run the detector's backbone once over a split and store its levels: the extraction itself."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from configs.errors import CacheError, ConfigError
from configs.schema import CacheConfig, DetectorConfig
from data.commits import CommitLog
from data.folder_state import settle_cache
from data.images import read_image
from data.manifest import FORMAT_VERSION, Manifest, SampleInfo
from data.plan import (
    choose_levels,
    cropped_shapes,
    plan_samples,
    resized_size,
    samples_by_bucket,
)
from data.records import ImageSet
from data.writer import CacheWriter, statistics_path
from extract.detector import LoadedDetector, prepare_images
from extract.maps import compute_maps
from extract.pyramid import level_shapes, measure_levels

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """What one run of `extract` did."""

    num_images: int
    num_new_images: int
    num_new_bytes: int
    seconds: float


def plan_extraction(
    dataset: str,
    images: ImageSet,
    detector: LoadedDetector,
    config: DetectorConfig,
    cache: CacheConfig,
) -> Manifest:
    """Return the manifest of a split: a pure function of image list, detector and settings."""
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
    device = next(detector.model.parameters()).device
    found = measure_levels(detector.model, batch.to(device), shapes_of)
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
        bytes_per_value=np.dtype(cache.dtype).itemsize,
        max_shard_bytes=int(cache.shard_megabytes * 2**20),
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        dataset=dataset,
        split=images.split,
        container=cache.container,
        dtype=cache.dtype,
        crop=cache.crop,
        detector={
            "builder": config.builder,
            "checkpoint": config.checkpoint,
            "weights": config.weights,
            "weights_sha256": detector.weights_sha256,
            "classes": list(detector.classes) if detector.classes else None,
            "min_size": transform.min_size[-1],
            "max_size": transform.max_size,
            "resize": list(config.resize) if config.resize else None,
            "image_mean": list(transform.image_mean),
            "image_std": list(transform.image_std),
            "size_divisible": transform.size_divisible,
        },
        levels=tuple(levels),
        buckets=buckets,
        samples=samples,
    )


def extract(
    folder: Path,
    manifest: Manifest,
    images: ImageSet,
    model: Any,
    *,
    batch_size: int,
    num_workers: int,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Extracted:
    """Write the split's cache into `folder`; goes on where an earlier run stopped.

    At most two units of work (one shard of the finest level each) are held in memory. Raises
    CacheError if the folder holds another plan's cache and `overwrite` is not set.
    """
    start = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        commit_log = CommitLog(folder)
    except OSError as error:
        raise CacheError(
            f"{folder}: cannot be written ({error.strerror}): choose another --features"
        ) from error
    with commit_log:
        num_new, num_bytes = 0, 0
        try:
            settle_cache(folder, manifest, images, commit_log, overwrite=overwrite)
            with closing(CacheWriter(folder, manifest, commit_log)) as writer:
                pending = writer.pending
                writer.prepare()
                num_new = sum(unit.num_rows for unit in pending)
                done = len(manifest.samples) - num_new
                if done and num_new:
                    log.info("%s: %d of %d images are there", folder, done, len(manifest.samples))
                by_bucket = samples_by_bucket(manifest)
                indices = [
                    by_bucket[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
                    for unit in pending
                ]
                maps = _unit_maps(model, manifest, indices, batch_size, num_workers)
                bar_length = num_new if show_progress else 0
                with ThreadPoolExecutor(1) as background, _bar(bar_length) as bar:
                    writing: Future[int] | None = None
                    for unit, unit_maps in zip(pending, maps, strict=True):
                        # The next unit is computed while this one is cast, checked and written.
                        if writing is not None:
                            num_bytes += writing.result()
                        writing = background.submit(writer.write_unit, unit, unit_maps)
                        bar.update(unit.num_rows)
                        rate = num_bytes / 1e6 / max(1e-9, time.monotonic() - start)
                        bar.set_postfix_str(f"{rate:.0f} MB/s, {num_bytes / 1e9:.2f} GB written")
                    if writing is not None:
                        num_bytes += writing.result()
                if num_new or any(
                    not statistics_path(folder, level.index).exists() for level in manifest.levels
                ):
                    writer.finish()
        except OSError as error:
            raise CacheError(
                f"{error.filename or folder}: cannot be written ({error.strerror or error}): "
                "nothing committed is lost, mend it and run the same command again"
            ) from error
    return Extracted(
        num_images=len(manifest.samples),
        num_new_images=num_new,
        num_new_bytes=num_bytes,
        seconds=time.monotonic() - start,
    )


def _unit_maps(
    model: Any,
    manifest: Manifest,
    units: list[list[int]],
    batch_size: int,
    num_workers: int,
) -> Iterator[dict[int, list[Tensor]]]:
    """Compute unit after unit; images are decoded ahead by threads, two batches at most."""
    groups = [
        (number, unit[start : start + batch_size])
        for number, unit in enumerate(units)
        for start in range(0, len(unit), batch_size)
    ]
    order = [index for _, group in groups for index in group]
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        decoding: deque[Future[NDArray[Any]]] = deque()
        upcoming = iter(order)
        maps: dict[int, list[Tensor]] = {level.index: [] for level in manifest.levels}
        for position, (number, group) in enumerate(groups):
            while len(decoding) < 3 * batch_size and (index := next(upcoming, None)) is not None:
                decoding.append(pool.submit(_checked_image, manifest.samples[index]))
            samples = [manifest.samples[index] for index in group]
            try:
                images = [decoding.popleft().result() for _ in group]
            except ConfigError:
                for future in decoding:
                    future.cancel()
                raise
            for level, tensors in compute_maps(model, manifest, samples, images).items():
                maps[level].extend(tensors)
            if position + 1 == len(groups) or groups[position + 1][0] != number:
                yield maps
                maps = {level.index: [] for level in manifest.levels}


def _checked_image(sample: SampleInfo) -> NDArray[Any]:
    image = read_image(sample.file)
    if image.shape[:2] != (sample.height, sample.width):
        raise ConfigError(
            f"{sample.file}: is {image.shape[0]}x{image.shape[1]} px, the data set says "
            f"{sample.height}x{sample.width}: mend the annotations"
        )
    return image


def _bar(total: int) -> tqdm[Any]:
    return tqdm(
        total=total, unit="image", desc="extract", disable=total == 0, dynamic_ncols=True,
        mininterval=0.5, leave=os.isatty(2),
    )  # fmt: skip
