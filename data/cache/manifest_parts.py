"""What a manifest consists of: detector, levels, buckets, samples, images that were left out.

Each part says what its values may be; `contradiction_in`, whether parts fit together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from configs.schema.section import NonNegative, Positive

# Where weights came from is told, not compared: their hash says whether they are the same.
# `configured` (the sizes as the configuration gave them) and the hash of the weights' file let
# training compare without building the detector.
INFORMATIVE = {"checkpoint", "weights", "classes", "weights_file_sha256", "configured"}

_MOST_BYTES = 2**62  # of a bucket at a level; offsets in files are int64

_MAX_LEVELS = 64  # no pyramid has as many

_LevelIndex = Annotated[int, Field(strict=True, ge=0, lt=_MAX_LEVELS)]
_Side = Annotated[int, Field(strict=True, gt=0, lt=2**31)]
"""Of images and maps, in px or positions; channels and strides too."""
_Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelInfo:
    """One stored FPN level, measured on the detector itself."""

    index: _LevelIndex
    key: str
    stride_px: _Side
    num_channels: _Side
    derived_from: _LevelIndex | None
    """Level of which this one is exactly [::2, ::2] (torchvision's `pool`), else None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketInfo:
    """The images of one padded input size; `level_shapes` and `samples_per_shard` go by level."""

    height_px: _Side
    width_px: _Side
    num_samples: Positive
    level_shapes: dict[int, tuple[_Side, _Side]]
    samples_per_shard: dict[int, Positive]

    def num_shards(self, level: int) -> int:
        """Return how many shards this bucket has at a level."""
        return -(-self.num_samples // self.samples_per_shard[level])

    @property
    def array_name(self) -> str:
        """Name of this bucket's array at every level.

        It is the padded input size: on coarse levels two buckets may have maps of one size.
        """
        return f"h{self.height_px:04d}_w{self.width_px:04d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleInfo:
    """One image: original size, resized size before padding, and its row in its bucket."""

    image_id: Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
    file: str
    height: _Side
    width: _Side
    input_height: _Side
    input_width: _Side
    bucket: NonNegative
    row: NonNegative


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedInfo:
    """An image of the split that was left out as bad, and why."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _ConfiguredSizes:
    min_size: Positive | None
    max_size: Positive | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _DetectorFacts:
    """What other code asks a manifest for; `extract.detector.loading` writes it, and more."""

    builder: str
    checkpoint: str | None
    weights: str | None
    weights_sha256: str
    weights_file_sha256: str | None
    configured: _ConfiguredSizes
    min_size: _Number
    max_size: _Number
    resize: tuple[Positive, Positive] | None
    size_divisible: Positive


_FACTS = TypeAdapter(_DetectorFacts)


def detector_facts(raw: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of a detector; ValueError if a fact is missing, or odd."""
    _FACTS.validate_python(raw)
    return raw


def detector_difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say in words the first fact that differs between two detectors' descriptions, or None."""
    for key in sorted((there.keys() | now.keys()) - INFORMATIVE):
        if there.get(key) != now.get(key):
            return f"detector {key}: {_short(there.get(key))} there, {_short(now.get(key))} now"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:20]}...'"


def contradiction_in(
    levels: Sequence[LevelInfo],
    buckets: Sequence[BucketInfo],
    samples: Sequence[SampleInfo],
    *,
    value_bytes: int,
) -> str | None:
    """Say in words in what the parts of a plan do not fit together; None if they do.

    After that each level is one of the buckets' and each bucket's of the levels, each row of a
    bucket is one sample's, and sizes and numbers are those that are counted.
    """
    return (
        _contradiction_of_levels(levels)
        or _contradiction_of_buckets(levels, buckets, value_bytes)
        or _contradiction_of_samples(buckets, samples)
    )


def _contradiction_of_levels(levels: Sequence[LevelInfo]) -> str | None:
    indices = [level.index for level in levels]
    if not indices or indices != sorted(set(indices)):
        return f"its levels are {indices}"
    there = {level.index: level for level in levels}
    for level in levels:
        if level.derived_from is None:
            continue
        source = there.get(level.derived_from)  # which need not be stored
        is_coarser = level.derived_from < level.index
        if not is_coarser or (source and source.num_channels != level.num_channels):
            return f"level {level.index} is derived from level {level.derived_from}"
    return None


def _contradiction_of_buckets(
    levels: Sequence[LevelInfo], buckets: Sequence[BucketInfo], value_bytes: int
) -> str | None:
    if len({bucket.array_name for bucket in buckets}) != len(buckets):
        return "two of its buckets are of one size"
    indices = {level.index for level in levels}
    for number, bucket in enumerate(buckets):
        counts, most = bucket.samples_per_shard, bucket.num_samples
        if not bucket.level_shapes.keys() == counts.keys() == indices:
            return f"bucket {number} is not of its levels"
        # A unit of work, a shard of the level with the fewest, never straddles two shards.
        unit = min(counts.values())
        if any(count > most or (count % unit and count != most) for count in counts.values()):
            return f"bucket {number} of {most} samples has {[*counts.values()]} in a shard"
        for level in levels:
            shape = (*bucket.level_shapes[level.index], level.num_channels)
            if most * math.prod(shape) * value_bytes > _MOST_BYTES:
                return f"bucket {number} is larger than any disk"
        for level in levels:
            if level.derived_from in bucket.level_shapes:
                height, width = bucket.level_shapes[level.derived_from]
                if bucket.level_shapes[level.index] != ((height + 1) // 2, (width + 1) // 2):
                    return f"level {level.index} of bucket {number} is not half of its source"
    return None


def _contradiction_of_samples(
    buckets: Sequence[BucketInfo], samples: Sequence[SampleInfo]
) -> str | None:
    rows = [0] * len(buckets)
    for sample in samples:
        if sample.bucket >= len(rows) or sample.row != rows[sample.bucket]:
            return f"image {sample.image_id} is in bucket {sample.bucket}, row {sample.row}"
        bucket = buckets[sample.bucket]
        if sample.input_height > bucket.height_px or sample.input_width > bucket.width_px:
            return f"image {sample.image_id} is larger than its bucket {sample.bucket}"
        rows[sample.bucket] += 1
    if not rows or rows != [bucket.num_samples for bucket in buckets]:
        return f"its buckets have {rows} images"
    if len({sample.image_id for sample in samples}) != len(samples):
        return "two of its images have one id"
    return None
