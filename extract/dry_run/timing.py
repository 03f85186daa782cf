"""How fast this machine extracts: the extraction itself, timed over a few images of the split."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import CacheError
from data.cache.manifest import Manifest
from data.cache.manifest_parts import BucketInfo, SampleInfo
from data.cache.plan import level_bytes
from data.images.image_sets import read_image
from data.images.records import ImageSet
from extract.dry_run.ways_to_fit import fits
from extract.features.channel_codes import with_codes
from extract.features.extraction import extract
from extract.features.maps import compute_maps

_TIMED_SECONDS = 10.0
_LEAST_IMAGES, _MOST_IMAGES = 2, 256
_ENOUGH_IMAGES = 8
_MOST_BYTES = 2 * 2**30
_UNITS = 4
_WRITTEN_AT_ONCE = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Images per second of the whole extraction, and bytes per second of a plain synced write."""

    images_per_s: float
    write_bytes_per_s: float


def measure_speed(
    manifest: Manifest,
    model: Any,
    scratch: Path,
    *,
    free_bytes: int,
    batch_size: int | None,
    num_workers: int | None,
) -> Speed:
    """Extract about ten seconds' worth of images, spread over the split, into `scratch`.

    Decoding, backbone, casting, checksums and writing then share cores and disk as they will in
    earnest; no model of that would hold on another machine. The rate is per pixel of padded input,
    as a few images need not have the split's mean size. Raises CacheError if they do not fit.
    """
    _require_room(manifest, scratch, free_bytes)
    write_bytes_per_s = _write_rate(scratch)
    samples = _timed_samples(manifest, model, free_bytes)
    # Their codes are found first: a large split spends next to no time on its own.
    few = with_codes(scratch / "cache", part_of(manifest, samples), model, overwrite=False)
    done = extract(
        scratch / "cache",
        few,
        ImageSet(split=manifest.split, records=(), categories={}),
        model,
        batch_size=batch_size,
        num_workers=num_workers,
        show_progress=False,
    )
    pixels_per_s = _input_pixels(few) / done.seconds
    return Speed(
        images_per_s=len(manifest.samples) * pixels_per_s / _input_pixels(manifest),
        write_bytes_per_s=write_bytes_per_s,
    )


def part_of(manifest: Manifest, samples: list[SampleInfo]) -> Manifest:
    """Return the plan of some of the images, cut into at least four units where they allow it.

    Several units are needed for writing to overlap with computing, as it does in a long run.
    """
    counts = Counter(sample.bucket for sample in samples)
    numbers = {bucket: number for number, bucket in enumerate(sorted(counts))}
    rows: Counter[int] = Counter()
    placed = []
    for sample in samples:
        placed.append(
            dataclasses.replace(sample, bucket=numbers[sample.bucket], row=rows[sample.bucket])
        )
        rows[sample.bucket] += 1
    most_rows = max(1, len(samples) // _UNITS)
    buckets = [_bucket_of(manifest.buckets[b], counts[b], most_rows) for b in sorted(counts)]
    return dataclasses.replace(manifest, buckets=tuple(buckets), samples=tuple(placed))


def _bucket_of(bucket: BucketInfo, num_samples: int, most_rows: int) -> BucketInfo:
    """Return the bucket with fewer samples; a unit is never larger than it was."""
    unit = min(most_rows, num_samples, *bucket.samples_per_shard.values())
    return dataclasses.replace(
        bucket,
        num_samples=num_samples,
        samples_per_shard={
            level: min(num_samples, count // unit * unit)
            if count > min(bucket.samples_per_shard.values())
            else unit
            for level, count in bucket.samples_per_shard.items()
        },
    )


def _timed_samples(manifest: Manifest, model: Any, free_bytes: int) -> list[SampleInfo]:
    """Choose images at even distances: as many as ten seconds and a quarter of the disk hold.

    Of a small split at most a quarter, or it could as well be extracted.
    """
    samples = manifest.samples
    middle = samples[len(samples) // 2]
    seconds = _seconds_for(manifest, model, middle)
    if seconds < _TIMED_SECONDS / 4:
        seconds = _seconds_for(manifest, model, middle)  # the first one also warmed things up
    mean_bytes = sum(level_bytes(manifest, x.index) for x in manifest.levels) / len(samples)
    number = min(
        _MOST_IMAGES,
        int(_TIMED_SECONDS / seconds),
        int(min(_MOST_BYTES, free_bytes / 4) / mean_bytes),
        max(_ENOUGH_IMAGES, len(samples) // 4),
    )
    places = np.linspace(0, len(samples) - 1, min(max(_LEAST_IMAGES, number), len(samples))).round()
    return [samples[int(place)] for place in places]


def _require_room(manifest: Manifest, scratch: Path, free_bytes: int) -> None:
    """Raise CacheError if the least number of images, of the largest bucket, does not fit."""
    largest = max(
        sum(manifest.sample_bytes(level.index, bucket) for level in manifest.levels)
        for bucket in range(len(manifest.buckets))
    )
    if not fits(_LEAST_IMAGES * largest, free_bytes):
        raise CacheError(
            f"{scratch.parent}: {free_bytes / 1e9:.3f} GB are free, too little to time two images "
            f"of {largest / 1e9:.3f} GB each: free space, or choose another --features"
        )


def _seconds_for(manifest: Manifest, model: Any, sample: SampleInfo) -> float:
    start = time.perf_counter()
    compute_maps(model, manifest, sample, read_image(sample.file))
    return time.perf_counter() - start


def _input_pixels(manifest: Manifest) -> int:
    return sum(b.num_samples * b.height_px * b.width_px for b in manifest.buckets)


def _write_rate(folder: Path) -> float:
    """Write and sync a temporary file; return bytes per second. CacheError if that fails."""
    block = np.random.default_rng(0).bytes(_WRITTEN_AT_ONCE)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return _WRITTEN_AT_ONCE / (time.perf_counter() - start)
    except OSError as error:
        raise CacheError(
            f"{folder}: cannot be written ({error.strerror}): "
            "free space, or choose another --features"
        ) from error
