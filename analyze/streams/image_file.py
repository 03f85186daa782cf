"""The file of one image: all its levels, and everything a decoder needs besides the models.

docs/bitstream.md has the layout. What levels share is told once; what follows from the rest (the
latents' shape, a level half as large as the one before) is not told at all. Files without context
are of version 2, as they always were. A file of version 5 has levels that are coded in one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from analyze.streams.file_fields import Cursor, varint
from configs.errors import CacheError

MAGIC = b"FPNI"
VERSION = 3
VERSION_WITHOUT_CONTEXT = 2
VERSION_FUSED = 5
ID_BYTES = 8
MAX_PAYLOADS = 8
MAX_POSITIONS = 2**22
"""Largest map, in positions: what a decoder makes room for is known before it believes a size."""

_CRC_BYTES = 4
_LEAST_BYTES = len(MAGIC) + 1 + ID_BYTES + 4 + _CRC_BYTES
_OWN_SIZE = 0x40
_CONTEXT = 0x80


class Kind(IntEnum):
    """How a level is sent: coded by a model, computed from another level, or as its mean.

    Predicted: as its model makes it of its context alone. Fused: by a model that codes several
    levels in one, the finest of which has the payloads.
    """

    CODED = 0
    DERIVED = 1
    DROPPED = 2
    PREDICTED = 3
    FUSED = 4

    @property
    def has_model(self) -> bool:
        """Whether a model of its own decodes it, so that it may be a context."""
        return self in (Kind.CODED, Kind.PREDICTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One level. `size_hw` is in feature positions; `stages` are for levels with a model.

    `payloads` are for coded ones, and for the finest of those that are fused.
    """

    level: int
    kind: Kind
    size_hw: tuple[int, int]
    stages: int = 0
    """Stride-2 stages of the codec: a latent stands for 2^stages positions in each direction."""
    payloads: tuple[bytes, ...] = ()
    source: int = 0
    """Level of which a derived one is [::2, ::2]; level that has the payloads of a fused one."""
    context: int | None = None
    """The coarser level beside which one with a model is decoded; None: it is decoded alone."""

    @property
    def has_payloads(self) -> bool:
        """Whether payloads belong to it, for its kind."""
        return self.kind is Kind.CODED or (self.kind is Kind.FUSED and self.source == self.level)

    @property
    def latent_hw(self) -> tuple[int, int]:
        """Shape of the latents y of a coded level."""
        return -(-self.size_hw[0] >> self.stages), -(-self.size_hw[1] >> self.stages)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """What a file holds. `image_hw` is the original image's size in px."""

    ensemble_id: bytes
    image_id: int
    image_hw: tuple[int, int]
    sections: tuple[Section, ...]


def pack(image: ImageFile) -> bytes:
    """Return the bytes of one image's levels, which must be in ascending order."""
    assert len(image.ensemble_id) == ID_BYTES, "ids have 8 bytes"
    version = _version_of(image.sections)
    out = bytearray(MAGIC + bytes([version]) + image.ensemble_id)
    for number in (image.image_id, *image.image_hw):
        out += varint(number)
    out.append(len(image.sections))
    before: tuple[int, int] | None = None
    for section in image.sections:
        out += _head(section, before, version)
        before = section.size_hw
    for section in image.sections:
        out += b"".join(section.payloads)
    return bytes(out) + zlib.crc32(out).to_bytes(_CRC_BYTES, "little")


def _version_of(sections: Sequence[Section]) -> int:
    if any(section.kind is Kind.FUSED for section in sections):
        return VERSION_FUSED
    alone = all(section.context is None for section in sections)
    return VERSION_WITHOUT_CONTEXT if alone else VERSION


def section_bytes(image: ImageFile) -> dict[int, int]:
    """Return level -> bytes of its head and payloads; the rest of a file is shared by all."""
    sizes: dict[int, int] = {}
    before: tuple[int, int] | None = None
    for section in image.sections:
        sizes[section.level] = section_size(section, before)
        before = section.size_hw
    return sizes


def section_size(section: Section, before: tuple[int, int] | None) -> int:
    """Return the bytes of a level's head and payloads, after a level whose size is `before`."""
    head = _head(section, before, _version_of([section]))  # as long in each version
    return len(head) + sum(len(payload) for payload in section.payloads)


def unpack(data: bytes, source: str = "image file") -> ImageFile:
    """Read a file's bytes; `source` is what messages call it.

    Raises CacheError if it is truncated, altered, padded, or of another kind or version.
    """
    if len(data) < _LEAST_BYTES:
        raise _damaged(source, f"{len(data)} bytes are fewer than its header")
    if data[: len(MAGIC)] != MAGIC:
        raise _damaged(source, "it does not start as a file of compress-features")
    version = data[len(MAGIC)]
    if version not in (VERSION_WITHOUT_CONTEXT, VERSION, VERSION_FUSED):
        raise CacheError(
            f"{source}: image file format {version}, this program reads "
            f"{VERSION_WITHOUT_CONTEXT} to {VERSION_FUSED}: compress the features again, or decode "
            "with the program that wrote it"
        )
    # Checked before any length is believed, so that a flipped length is never followed.
    body = data[:-_CRC_BYTES]
    if zlib.crc32(body) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        raise _damaged(source, "its checksum does not match")
    try:
        return _parsed(body, version)
    except ValueError as error:
        raise _damaged(source, str(error)) from error


def _parsed(body: bytes, version: int) -> ImageFile:
    """Read what precedes the checksum; ValueError says what is impossible."""
    cursor = Cursor(body, len(MAGIC) + 1)
    ensemble_id = cursor.take(ID_BYTES)
    image_id = cursor.varint()
    image_hw = (cursor.side(), cursor.side())
    heads: list[tuple[Section, list[int]]] = []
    for _ in range(cursor.byte()):
        heads.append(_read_head(cursor, [section for section, _ in heads], version))
    sections = tuple(
        replace(section, payloads=tuple(cursor.take(length) for length in lengths))
        for section, lengths in heads
    )
    if not sections or cursor.position != len(body):
        raise ValueError("its payload lengths do not add up to its size")
    has_context = any(section.context is not None for section in sections)
    if has_context and version == VERSION_WITHOUT_CONTEXT:
        raise ValueError("its version knows no context")
    if len(sections) > 1:  # that of a level by itself lies elsewhere
        _require_contexts(sections)
    return ImageFile(
        ensemble_id=ensemble_id, image_id=image_id, image_hw=image_hw, sections=sections
    )


def _require_contexts(sections: Sequence[Section]) -> None:
    """ValueError unless each context is a level with a model."""
    modelled = {section.level for section in sections if section.kind.has_model}
    for section in sections:
        if section.context is not None and section.context not in modelled:
            raise ValueError(
                f"level {section.level} needs level {section.context}, which no model decodes"
            )


def _kind_bit(version: int) -> int:
    """Return where the kind begins in a head's first byte: without FUSED it has two bits."""
    return 5 if version == VERSION_FUSED else 6


def _head(section: Section, before: tuple[int, int] | None, version: int) -> bytes:
    """Return what precedes the payloads; a size that follows from the level `before` is left out.

    First byte: level (5 bits), kind (3); before version 5, level (6), kind (2). Second: stages (3),
    payloads - 1 (3), whether a size follows (1), whether the level of a context follows (1).
    """
    bit = _kind_bit(version)
    assert 0 <= section.level < 1 << bit and 0 <= section.stages < 8
    assert len(section.payloads) <= MAX_PAYLOADS
    assert bool(section.payloads) == section.has_payloads
    assert section.kind is not Kind.PREDICTED or section.context is not None
    has_size = section.size_hw != _halved(before)
    out = bytearray([section.level | section.kind << bit])
    follows = (_OWN_SIZE if has_size else 0) | (_CONTEXT if section.context is not None else 0)
    out.append(section.stages | max(0, len(section.payloads) - 1) << 3 | follows)
    for side in section.size_hw if has_size else ():
        out += varint(side)
    if section.context is not None:
        out.append(section.context)
    if section.kind in (Kind.DERIVED, Kind.FUSED):
        out.append(section.source)
    for payload in section.payloads:
        out += varint(len(payload))
    return bytes(out)


def _read_head(cursor: Cursor, earlier: list[Section], version: int) -> tuple[Section, list[int]]:
    """Inverse of `_head`: the section without its payloads, and their lengths."""
    first, second = cursor.byte(), cursor.byte()
    bit = _kind_bit(version)
    level, kind = first & (1 << bit) - 1, Kind(first >> bit)
    if earlier and level <= earlier[-1].level:
        raise ValueError("its levels are not in ascending order")
    size_hw = _halved(earlier[-1].size_hw if earlier else None)
    if second & _OWN_SIZE:
        size_hw = (cursor.side(), cursor.side())
    if size_hw is None or size_hw[0] * size_hw[1] > MAX_POSITIONS:
        raise ValueError("its header holds impossible sizes")
    context = cursor.byte() if second & _CONTEXT else None
    if (context is not None and context <= level) or (context is None and kind is Kind.PREDICTED):
        raise ValueError(f"level {level} has no coarser level as its context")
    source = cursor.byte() if kind in (Kind.DERIVED, Kind.FUSED) else 0
    section = Section(
        level=level, kind=kind, size_hw=size_hw, stages=second & 7, source=source, context=context
    )
    _require_source(section, earlier)
    lengths: list[int] = []
    if section.has_payloads:
        lengths = [cursor.varint() for _ in range((second >> 3 & 7) + 1)]
    elif second & (0x38 if kind is Kind.PREDICTED else 0x3F | _CONTEXT):
        raise ValueError("a level without model has a model's facts")
    if kind is Kind.FUSED and context is not None:
        raise ValueError(f"level {level} is fused with others, and has a context")
    return section, lengths


def _require_source(section: Section, earlier: Sequence[Section]) -> None:
    """ValueError unless what a level is made of is there."""
    level, source = section.level, section.source
    there = {each.level: each for each in earlier}
    if section.kind is Kind.DERIVED:
        if source not in there or _halved(there[source].size_hw) != section.size_hw:
            raise ValueError(f"level {level} cannot come from level {source}")
    elif section.kind is Kind.FUSED and not section.has_payloads:
        finest = there.get(source)
        if finest is None or finest.kind is not Kind.FUSED or not finest.has_payloads:
            raise ValueError(f"level {level} is fused into level {source}, which holds no others")


def _halved(size_hw: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if size_hw is None else ((size_hw[0] + 1) // 2, (size_hw[1] + 1) // 2)


def _damaged(source: str, problem: str) -> CacheError:
    return CacheError(f"{source}: is damaged ({problem}): compress the features again")
