"""Levels that are not sent: the means in their place, and the bits that say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analyze.facts.sent_parts import Part
from analyze.file_format.image_file import ID_BYTES, ImageFile, pack, section_size
from analyze.file_format.section_heads import Kind, Section
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import FILE_NAME, Manifest
from data.reading.level_reader import LevelReader

_TRAINING_SPLIT = "train"


def training_cache(cache: CacheFolder) -> CacheFolder:
    """Return the training split's cache beside this one, which need not be there."""
    beside = cache.path.with_name(_TRAINING_SPLIT)
    return cache if beside == cache.path else CacheFolder(beside)


class KnownMeans:
    """What stands for a level that is dropped: means that a receiver knows, as it knows the models.

    They are those of the training split's cache; without one of the same detector that holds the
    level, this cache's own.
    """

    def __init__(self, cache: CacheFolder, train: CacheFolder) -> None:
        """Take both caches; a level is opened when it is first asked for."""
        self._cache = cache
        self._train = train
        self._means: dict[int, NDArray[Any]] = {}

    def of(self, level: int) -> NDArray[Any]:
        """Return a level's per-channel mean, float32 [C]."""
        if level not in self._means:
            known = self._train if self._is_known(level) else self._cache
            with LevelReader(known, level) as reader:
                self._means[level] = reader.statistics.mean.astype(np.float32)
        return self._means[level]

    def _is_known(self, level: int) -> bool:
        if not (self._train.path / FILE_NAME).is_file():
            return False
        there, here = self._train.manifest, self._cache.manifest
        same = there.detector["weights_sha256"] == here.detector["weights_sha256"]
        return same and level in {info.index for info in there.levels}


@dataclass(frozen=True, kw_only=True, slots=True)
class Overhead:
    """All in bits per pixel of the original images."""

    shared: float
    """Of the files' own header and checksum."""
    derived: dict[int, float]
    """Level -> what it costs to say that it is derived; levels that can be."""
    dropped: dict[int, float]

    def total(self, parts: Mapping[int, Part]) -> float:
        """Return what files with these parts, one for each level, take."""
        return self.shared + sum(self.of(level, part) for level, part in parts.items())

    def of(self, level: int, part: Part) -> float:
        """Return what one part takes."""
        if part.kind == "run":
            return part.bits_per_pixel
        return (self.derived if part.kind == "derived" else self.dropped)[level]


def overhead(manifest: Manifest, num_images: int) -> Overhead:
    """Return the overhead of the first `num_images` images of a cache."""
    return overhead_of(manifest, range(num_images))


def overhead_of(manifest: Manifest, images: Iterable[int]) -> Overhead:
    """Return the overhead of some images of a cache, by their places in it."""
    samples = [manifest.samples[index] for index in images]
    pixels = sum(sample.height * sample.width for sample in samples)
    levels = [info.index for info in manifest.levels]
    shared = 0
    heads = {kind: dict.fromkeys(levels, 0) for kind in (Kind.DERIVED, Kind.DROPPED)}
    for sample in samples:
        empty = ImageFile(
            ensemble_id=bytes(ID_BYTES),
            image_id=sample.image_id,
            image_hw=(sample.height, sample.width),
            sections=(),
        )
        shared += len(pack(empty))
        before: tuple[int, int] | None = None
        for level in levels:
            height, width = manifest.sample_shape(level, sample.bucket)[:2]
            for kind, sums in heads.items():
                section = Section(level=level, kind=kind, size_hw=(height, width))
                sums[level] += section_size(section, before)
            before = (height, width)
    return Overhead(
        shared=8 * shared / pixels,
        derived={level: 8 * size / pixels for level, size in heads[Kind.DERIVED].items()},
        dropped={level: 8 * size / pixels for level, size in heads[Kind.DROPPED].items()},
    )
