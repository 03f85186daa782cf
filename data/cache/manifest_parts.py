"""What a manifest consists of: detector, levels, buckets, samples, images that were left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from configs.schema.section import NonNegative, Positive

# Where weights came from is told, not compared: their hash says whether they are the same.
# `configured` (the sizes as the configuration gave them) and the hash of the weights' file let
# training compare without building the detector.
INFORMATIVE = {"checkpoint", "weights", "classes", "weights_file_sha256", "configured"}

_Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
