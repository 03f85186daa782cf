"""Images -> buckets -> shards -> units of work. Pure: the same input gives the same plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from configs.errors import ConfigError
from data.cache.manifest import Manifest
from data.cache.manifest_parts import BucketInfo, LevelInfo, SampleInfo
from data.images.records import ImageRecord

LevelShapes = Callable[[int, int], Mapping[int, tuple[int, int]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Rows of a bucket that are computed and committed together: one shard of the finest level."""

    index: int
    bucket: int
    first_row: int
    num_rows: int


def resized_size(
    height: int, width: int, *, min_size: int, max_size: int, fixed: tuple[int, int] | None
) -> tuple[int, int]:
    """Return (height, width) after torchvision's GeneralizedRCNNTransform.resize, before padding.

    `fixed` is torchvision's own order, (width, height).
    """
    if fixed is not None:
        return fixed[1], fixed[0]
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return int(float(height) * scale), int(float(width) * scale)


def padded_size(height: int, width: int, divisible: int) -> tuple[int, int]:
    """Return the size after padding to a multiple of `divisible` px."""
    return -(-height // divisible) * divisible, -(-width // divisible) * divisible


def cropped_shapes(shapes_of: LevelShapes, crop: int) -> LevelShapes:
    """Return the stored shapes of maps cut to `crop` positions; smaller maps stay whole."""

    def stored_of(height_px: int, width_px: int) -> Mapping[int, tuple[int, int]]:
        whole = shapes_of(height_px, width_px)
        return {index: (min(h, crop), min(w, crop)) for index, (h, w) in whole.items()}

    return stored_of


def plan_samples(
    records: Sequence[ImageRecord],
    input_sizes: Sequence[tuple[int, int]],
    *,
    levels: Sequence[LevelInfo],
    shapes_of: LevelShapes,
    divisible: int,
    bytes_per_value: int,
    max_shard_bytes: int,
) -> tuple[tuple[BucketInfo, ...], tuple[SampleInfo, ...]]:
    """Group images by padded input size and cut each group into shards of at most that many bytes.

    Samples keep the order of `records`; a sample's row is its position among its bucket's images.
    Buckets are sorted by size. Shards of coarser levels hold a multiple of the finest level's
    samples, so that a unit of work never straddles two shards.
    """
    padded = [padded_size(height, width, divisible) for height, width in input_sizes]
    sizes = sorted(set(padded))
    counts = dict.fromkeys(sizes, 0)
    samples = []
    for record, (height, width), size in zip(records, input_sizes, padded, strict=True):
        samples.append(
            SampleInfo(
                image_id=record.image_id,
                file=record.file,
                height=record.height,
                width=record.width,
                input_height=height,
                input_width=width,
                bucket=sizes.index(size),
                row=counts[size],
            )
        )
        counts[size] += 1
    buckets = []
    for height_px, width_px in sizes:
        shapes = shapes_of(height_px, width_px)
        sample_bytes = {
            level.index: shapes[level.index][0]
            * shapes[level.index][1]
            * level.num_channels
            * bytes_per_value
            for level in levels
        }
        buckets.append(
            BucketInfo(
                height_px=height_px,
                width_px=width_px,
                num_samples=counts[height_px, width_px],
                level_shapes={level.index: shapes[level.index] for level in levels},
                samples_per_shard=_samples_per_shard(
                    sample_bytes, counts[height_px, width_px], max_shard_bytes
                ),
            )
        )
    return tuple(buckets), tuple(samples)


def _samples_per_shard(
    sample_bytes: Mapping[int, int], num_samples: int, max_shard_bytes: int
) -> dict[int, int]:
    unit = max(1, max_shard_bytes // max(sample_bytes.values()))
    return {
        level: min(num_samples, unit * max(1, max_shard_bytes // size // unit))
        for level, size in sample_bytes.items()
    }


def units_of(manifest: Manifest) -> list[Unit]:
    """Cut the plan into units of work, bucket by bucket, in order."""
    units: list[Unit] = []
    for number, bucket in enumerate(manifest.buckets):
        rows = min(bucket.samples_per_shard.values())
        for first in range(0, bucket.num_samples, rows):
            units.append(
                Unit(
                    index=len(units),
                    bucket=number,
                    first_row=first,
                    num_rows=min(rows, bucket.num_samples - first),
                )
            )
    return units


def units_of_rows(manifest: Manifest, bucket: int, rows: range) -> range:
    """Return the indices of the units that hold some rows of a bucket; `rows` is of whole units."""
    before = sum(
        -(-info.num_samples // min(info.samples_per_shard.values()))
        for info in manifest.buckets[:bucket]
    )
    per_unit = min(manifest.buckets[bucket].samples_per_shard.values())
    return range(before + rows.start // per_unit, before + -(-rows.stop // per_unit))


def samples_by_bucket(manifest: Manifest) -> list[list[int]]:
    """Return, per bucket, the indices of its samples in row order."""
    rows: list[list[int]] = [[] for _ in manifest.buckets]
    for index, sample in enumerate(manifest.samples):
        rows[sample.bucket].append(index)
    return rows


def level_bytes(manifest: Manifest, level: int) -> int:
    """Return the exact bytes of a level's samples, containers' own few bytes not counted."""
    return sum(
        bucket.num_samples * manifest.sample_bytes(level, number)
        for number, bucket in enumerate(manifest.buckets)
    )


def choose_levels(found: Sequence[LevelInfo], wanted: Sequence[int] | None) -> list[LevelInfo]:
    """Return the wanted ones of the detector's levels; raises ConfigError for one it lacks."""
    if wanted is None:
        return list(found)
    known = {level.index: level for level in found}
    for index in wanted:
        if index not in known:
            raise ConfigError(
                f"cache.levels: the detector has levels {', '.join(map(str, known))}, not {index}"
            )
    return [known[index] for index in sorted(set(wanted))]


def stored_corner(
    *, image_id: int, level: int, map_hw: tuple[int, int], crop_hw: tuple[int, int]
) -> tuple[int, int]:
    """Return (top, left), in positions, of the crop that a cropped cache stores of a map.

    It depends on image and level alone, and by a hash, so that any program can find it again: the
    SHA-256 of "crop:<image_id>:<level>" is read as big-endian integers of 64 bits; the first gives
    the row, the second the column, as floor(integer * (map - crop + 1) / 2^64).
    """
    digest = hashlib.sha256(f"crop:{image_id}:{level}".encode()).digest()
    integers = (int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big"))
    free = (map_hw[0] - crop_hw[0] + 1, map_hw[1] - crop_hw[1] + 1)
    return integers[0] * free[0] >> 64, integers[1] * free[1] >> 64
