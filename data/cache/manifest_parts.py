"""What a manifest consists of: levels, buckets, samples, and the images that were left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from configs.schema.section import NonNegative, Positive


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelInfo:
    """One stored FPN level, measured on the detector itself."""

    index: NonNegative
    key: str
    stride_px: Positive
    num_channels: Positive
    derived_from: NonNegative | None
    """Level of which this one is exactly [::2, ::2] (torchvision's `pool`), else None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketInfo:
    """The images of one padded input size; `level_shapes` and `samples_per_shard` go by level."""

    height_px: Positive
    width_px: Positive
    num_samples: Positive
    level_shapes: dict[int, tuple[Positive, Positive]]
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
    height: Positive
    width: Positive
    input_height: Positive
    input_width: Positive
    bucket: NonNegative
    row: NonNegative


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedInfo:
    """An image of the split that was left out as bad, and why."""

    file: str
    reason: str
