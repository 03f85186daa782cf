"""What the files of a split hold besides what models code: headers, and who is not sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analyze.facts.sent_parts import Part
from analyze.streams.image_file import ID_BYTES, ImageFile, Kind, Section, pack, section_size
from data.cache.manifest import Manifest


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
    samples = manifest.samples[:num_images]
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
