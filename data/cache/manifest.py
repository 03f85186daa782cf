"""The manifest: one JSON file that holds a cache's whole plan and what its features came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, TypeAdapter, ValidationError

from configs.errors import CacheError, PassingError
from configs.given_files import regular
from configs.plain_json import parse_json
from configs.schema.data import Container, StoredType
from configs.schema.section import PathComponent, Positive, first_problem
from data.cache.manifest_parts import (
    INFORMATIVE,
    BucketInfo,
    LevelInfo,
    SampleInfo,
    SkippedInfo,
    contradiction_in,
    detector_difference,
    detector_facts,
)
from data.coding.byte_code import ByteCode
from data.images.records import ImageFiles
from data.system.atomic_files import write_atomically

_READ_VERSIONS = (1, 2)
_BYTES = "uint8"
FILE_NAME = "manifest.json"

_COMPARED = (
    "decoded_from", "dataset", "split", "container", "dtype", "format_version", "crop",
    "augmentation",
)  # fmt: skip


def format_version(dtype: str) -> int:
    """Return the version of a cache of that dtype: 8 bits came with the second one."""
    return 2 if dtype == _BYTES else 1


_facts_of = attrgetter(*(x.name for x in dataclasses.fields(SampleInfo) if x.name != "file"))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The plan of one split's cache; equal plans give byte-identical caches."""

    format_version: int
    dataset: PathComponent
    split: PathComponent
    container: Container
    dtype: StoredType
    crop: Positive | None = None
    """Maps are cut to at most crop x crop positions (see `stored_corner`); None: whole."""
    detector: Annotated[dict[str, Any], AfterValidator(detector_facts)]
    levels: tuple[LevelInfo, ...]
    buckets: tuple[BucketInfo, ...]
    samples: tuple[SampleInfo, ...]
    image_limit: Positive | None = None
    """Only so many images of the split's listing were taken, from its start. Told, not compared."""
    skipped: tuple[SkippedInfo, ...] = ()
    """Images of the listing that are no samples, in its order. Told, not compared."""
    augmentation: dict[str, Any] | None = None
    """How further views of the images (`data.images.views`) were drawn; None: the images alone."""
    decoded_from: str | None = None
    """Models and cache that decompress-features made this cache of; None: a detector made it."""
    codes: dict[int, ByteCode] | None = None
    """Of uint8: what each level's bytes stand for. None: not known yet, or another dtype."""
    image_files: ImageFiles | None = None
    """Where the images lay; their `file` begins with that folder. None: of an older program."""

    @classmethod
    def load(cls, cache: Path, content: bytes | None = None) -> Manifest:
        """Read a cache's manifest; CacheError if it is missing, damaged or of another format.

        `content`: what its file holds, if that has been read.
        """
        path = cache / FILE_NAME
        try:
            raw = parse_json(regular(path).read_bytes() if content is None else content)
            version = raw["format_version"]
            if version in _READ_VERSIONS:
                return cls.from_json(raw)
        except (FileNotFoundError, NotADirectoryError):
            raise CacheError(
                f"{cache}: holds no feature cache: run extract-features --split {cache.name}, or "
                "name the folder that holds it with --features"
            ) from None
        except OSError as error:
            raise PassingError.reading(path, error) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CacheError(
                f"{path}: is damaged ({error}): run extract-features with the settings that it was "
                "made with, or with --overwrite"
            ) from error
        raise CacheError(
            f"{path}: is of format version {version}, this program reads "
            f"{' and '.join(map(str, _READ_VERSIONS))}: "
            "run extract-features --overwrite"
        )

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Manifest:
        """Build a manifest from its JSON form, which may then be believed.

        ValueError if it lacks something, or its parts contradict each other.
        """
        fields = list(raw["sample_fields"])
        samples = [dict(zip(fields, row, strict=True)) for row in raw["samples"]]
        try:
            manifest = _MANIFEST.validate_python(raw | {"samples": samples})
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None
        if (problem := _contradiction_in(manifest)) is not None:
            raise ValueError(problem)
        return manifest

    def to_json(self) -> str:
        """Return the JSON text; samples are rows of values under one list of field names."""
        raw = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("levels", "buckets", "samples", "skipped")
        }
        for name in ("augmentation", "decoded_from", "codes", "image_files"):
            # Many caches have none: what is written of them stays as it was.
            if raw[name] is None:
                del raw[name]
        if self.codes is not None:
            raw["codes"] = {level: code.to_json() for level, code in self.codes.items()}
        if self.image_files is not None:
            raw["image_files"] = dataclasses.asdict(self.image_files)
        fields = [field.name for field in dataclasses.fields(SampleInfo)]
        for name in ("levels", "buckets", "skipped"):
            raw[name] = [dataclasses.asdict(each) for each in getattr(self, name)]
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
        """SHA-256 of what is compared; checkpoints carry it, so that a resumed run meets its cache.

        So paths do not count. Of a manifest that does not say where its images lay, it is `sha256`.
        """
        if (files := self.image_files) is None:
            return self.sha256
        facts = {name: getattr(self, name) for name in _COMPARED}
        facts["detector"] = {k: v for k, v in self.detector.items() if k not in INFORMATIVE}
        if self.codes is not None:
            facts["codes"] = {level: code.to_json() for level, code in self.codes.items()}
        facts["levels"] = [dataclasses.asdict(level) for level in self.levels]
        facts["buckets"] = [dataclasses.asdict(bucket) for bucket in self.buckets]
        facts["samples"] = [(files.name_of(x.file), *_facts_of(x)) for x in self.samples]
        facts["images"] = files.xxh3
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the manifest.json that `save` writes."""
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
        return math.prod(self.sample_shape(level, bucket)) * self.value_bytes

    @property
    def value_bytes(self) -> int:
        """Bytes of one stored value."""
        return np.dtype(self.dtype).itemsize

    @property
    def derived_levels(self) -> set[int]:
        """Return the levels that are another one's values, to the last bit."""
        return {level.index for level in self.levels if level.derived_from is not None}

    def code(self, level: int) -> ByteCode | None:
        """Return what a level's bytes stand for; None where values are stored as floats."""
        return None if self.codes is None else self.codes[level]

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
        there, here = ([x.index for x in plan.levels] for plan in (other, self))
        if there != here:
            return f"levels: {there} there, {here} now"
        if len(self.samples) != len(other.samples):
            return f"images: {len(other.samples)} there, {len(self.samples)} now"
        for sample, its in zip(self.samples, other.samples, strict=True):
            if dataclasses.replace(its, file=sample.file) != sample:
                return f"image list: {its.file} there, {sample.file} now"
        before, now = ([x.file for x in plan.samples] for plan in (other, self))
        ours = self.image_files or ImageFiles()
        if difference := ours.difference_from(other.image_files, before=before, now=now):
            return difference
        if None not in (self.codes, other.codes) and self.codes != other.codes:
            return "codes: of other ranges of the channels"
        if self.levels != other.levels or self.buckets != other.buckets:
            return "levels, buckets or shard size"
        return None


def _contradiction_in(manifest: Manifest) -> str | None:
    """Say in words in what the parts of a manifest do not fit together; None if they do."""
    problem = contradiction_in(
        manifest.levels, manifest.buckets, manifest.samples, value_bytes=manifest.value_bytes
    )
    if problem is not None:
        return problem
    if (manifest.dtype == _BYTES) != (manifest.codes is not None):
        return f"it is of {manifest.dtype}, {'without' if manifest.codes is None else 'with'} codes"
    if manifest.format_version != format_version(manifest.dtype):
        return f"it is of {manifest.dtype} and of format version {manifest.format_version}"
    indices = [level.index for level in manifest.levels]
    if manifest.codes is not None and sorted(manifest.codes) != indices:
        return f"its codes are of levels {sorted(manifest.codes)}"
    for level in manifest.levels:
        code = manifest.code(level.index)
        if code and (problem := code.problem(level.num_channels)) is not None:
            return f"the code of level {level.index} {problem}"
    return None


_MANIFEST = TypeAdapter(Manifest)
