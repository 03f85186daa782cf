"""The manifest: one JSON file that holds a cache's whole plan and what its features came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import CacheError, PassingError
from data.system.atomic_files import write_atomically

FORMAT_VERSION = 1
FILE_NAME = "manifest.json"

_COMPARED = (
    "decoded_from", "format_version", "dataset", "split", "container", "dtype", "crop",
    "augmentation",
)  # fmt: skip
# Where weights came from is told, not compared: their hash says whether they are the same.
# `configured` (the sizes as the configuration gave them) and the hash of the weights' file let
# training compare without building the detector.
_INFORMATIVE = {"checkpoint", "weights", "classes", "weights_file_sha256", "configured"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelInfo:
    """One stored FPN level, measured on the detector itself."""

    index: int
    key: str
    stride_px: int
    num_channels: int
    derived_from: int | None
    """Level of which this one is exactly [::2, ::2] (torchvision's `pool`), else None."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketInfo:
    """The images of one padded input size; `level_shapes` and `samples_per_shard` go by level."""

    height_px: int
    width_px: int
    num_samples: int
    level_shapes: dict[int, tuple[int, int]]
    samples_per_shard: dict[int, int]

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

    image_id: int
    file: str
    height: int
    width: int
    input_height: int
    input_width: int
    bucket: int
    row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedInfo:
    """An image of the split that was left out as bad, and why."""

    file: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The plan of one split's cache; equal plans give byte-identical caches."""

    format_version: int
    dataset: str
    split: str
    container: str
    dtype: str
    crop: int | None = None
    """Maps are cut to at most crop x crop positions (see `stored_corner`); None: whole."""
    detector: dict[str, Any]
    levels: tuple[LevelInfo, ...]
    buckets: tuple[BucketInfo, ...]
    samples: tuple[SampleInfo, ...]
    image_limit: int | None = None
    """Only so many images of the split's listing were taken, from its start. Told, not compared."""
    skipped: tuple[SkippedInfo, ...] = ()
    """Images of the listing that are no samples, in its order. Told, not compared."""
    augmentation: dict[str, Any] | None = None
    """How further views of the images (`data.images.views`) were drawn; None: the images alone."""
    decoded_from: str | None = None
    """Models and cache that decompress-features made this cache of; None: a detector made it."""

    @classmethod
    def load(cls, cache: Path, content: bytes | None = None) -> Manifest:
        """Read a cache's manifest; CacheError if it is missing, damaged or of another format.

        `content`: what its file holds, if that has been read.
        """
        path = cache / FILE_NAME
        try:
            raw = json.loads(path.read_bytes() if content is None else content)
            version = raw["format_version"]
            if version == FORMAT_VERSION:
                return cls.from_json(raw)
        except (FileNotFoundError, NotADirectoryError):
            raise CacheError(
                f"{cache}: holds no feature cache: run extract-features --split {cache.name}"
            ) from None
        except OSError as error:
            raise PassingError.reading(path, error) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CacheError(
                f"{path}: is damaged ({error}): run extract-features with the settings that it was "
                "made with, or with --overwrite"
            ) from error
        raise CacheError(
            f"{path}: is of format version {version}, this program reads {FORMAT_VERSION}: "
            "run extract-features --overwrite"
        )

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Manifest:
        """Build a manifest from its JSON form."""
        fields = list(raw["sample_fields"])
        buckets = [
            BucketInfo(
                height_px=bucket["height_px"],
                width_px=bucket["width_px"],
                num_samples=bucket["num_samples"],
                level_shapes={int(k): (v[0], v[1]) for k, v in bucket["level_shapes"].items()},
                samples_per_shard={int(k): v for k, v in bucket["samples_per_shard"].items()},
            )
            for bucket in raw["buckets"]
        ]
        return cls(
            format_version=raw["format_version"],
            dataset=raw["dataset"],
            split=raw["split"],
            container=raw["container"],
            dtype=raw["dtype"],
            crop=raw.get("crop"),
            detector=raw["detector"],
            levels=tuple(LevelInfo(**level) for level in raw["levels"]),
            buckets=tuple(buckets),
            samples=tuple(
                SampleInfo(**dict(zip(fields, row, strict=True))) for row in raw["samples"]
            ),
            image_limit=raw["image_limit"],
            skipped=tuple(SkippedInfo(**image) for image in raw["skipped"]),
            augmentation=raw.get("augmentation"),
            decoded_from=raw.get("decoded_from"),
        )

    def to_json(self) -> str:
        """Return the JSON text; samples are rows of values under one list of field names."""
        raw = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("levels", "buckets", "samples", "skipped")
        }
        for name in ("augmentation", "decoded_from"):
            # Most caches have none; their fingerprints, which checkpoints carry, stay as they were.
            if raw[name] is None:
                del raw[name]
        fields = [field.name for field in dataclasses.fields(SampleInfo)]
        raw["levels"] = [dataclasses.asdict(level) for level in self.levels]
        raw["buckets"] = [dataclasses.asdict(bucket) for bucket in self.buckets]
        raw["skipped"] = [dataclasses.asdict(image) for image in self.skipped]
        raw["sample_fields"] = fields
        head = json.dumps(raw, indent=1)[:-2]
        rows = ",\n  ".join(
            json.dumps([getattr(sample, name) for name in fields], separators=(",", ":"))
            for sample in self.samples
        )
        return f'{head},\n "samples": [\n  {rows}\n ]\n}}\n'

    def save(self, cache: Path) -> None:
        """Write manifest.json atomically: it appears whole or not at all."""
        write_atomically(cache / FILE_NAME, self.to_json().encode())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of manifest.json; checkpoints carry it, so that a resumed run meets its cache."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def level(self, index: int) -> LevelInfo:
        """Return a stored level; raises CacheError naming the levels there are."""
        for level in self.levels:
            if level.index == index:
                return level
        stored = ", ".join(str(level.index) for level in self.levels)
        raise CacheError(f"the {self.split} cache holds levels {stored}, not level {index}")

    def sample_shape(self, level: int, bucket: int) -> tuple[int, int, int]:
        """Return the (H, W, C) of a bucket's samples at a level."""
        height, width = self.buckets[bucket].level_shapes[level]
        return height, width, self.level(level).num_channels

    def sample_bytes(self, level: int, bucket: int) -> int:
        """Return the bytes of one sample."""
        height, width, channels = self.sample_shape(level, bucket)
        return height * width * channels * (2 if self.dtype == "float16" else 4)

    def require_whole_maps(self) -> None:
        """Raise CacheError if the cache holds crops: evaluation always runs on whole maps."""
        if self.crop is not None:
            raise CacheError(
                f"the {self.split} cache holds crops of {self.crop} positions, evaluation needs "
                f"whole maps: run extract-features --split {self.split} --overwrite without --crop "
                "(and without cache.crop)"
            )

    def difference_from(self, other: Manifest) -> str | None:
        """Say in words the first thing that differs from another plan, or None."""
        for name in _COMPARED:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name}: {theirs!r} there, {mine!r} now"
        if (difference := detector_difference(other.detector, self.detector)) is not None:
            return difference
        if [x.index for x in self.levels] != [x.index for x in other.levels]:
            return (
                f"levels: {[x.index for x in other.levels]} there, "
                f"{[x.index for x in self.levels]} now"
            )
        if len(self.samples) != len(other.samples):
            return f"images: {len(other.samples)} there, {len(self.samples)} now"
        for mine_sample, their_sample in zip(self.samples, other.samples, strict=True):
            if mine_sample != their_sample:
                return f"image list: {their_sample.file} there, {mine_sample.file} now"
        if self.levels != other.levels or self.buckets != other.buckets:
            return "levels, buckets or shard size"
        return None


def detector_difference(there: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say in words the first fact that differs between two detectors' descriptions, or None."""
    for key in sorted((there.keys() | now.keys()) - _INFORMATIVE):
        if there.get(key) != now.get(key):
            return f"detector {key}: {_short(there.get(key))} there, {_short(now.get(key))} now"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:20]}...'"
