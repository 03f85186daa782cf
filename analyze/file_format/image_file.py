"""The file of one image: all its levels, and everything a decoder needs besides the models.

docs/bitstream.md has the layout. What levels share is told once; what follows from the rest (the
latents' shape, a level half as large as the one before) is not told at all. Files without context
are of version 2, as they always were. A file of version 4 is of an image that has chosen its models
itself: each level says which of those that the index lists. One of version 5 has levels that are
coded in one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from analyze.file_format.file_fields import Cursor, varint
from analyze.file_format.section_heads import (
    VERSION,
    VERSION_FUSED,
    VERSION_PER_IMAGE,
    VERSION_WITHOUT_CONTEXT,
    Kind,
    Section,
    head,
    read_head,
)
from configs.errors import CacheError

MAGIC = b"FPNI"
ID_BYTES = 8

_CRC_BYTES = 4
_LEAST_BYTES = len(MAGIC) + 1 + ID_BYTES + 4 + _CRC_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """What a file holds. `image_hw` is the original image's size in px."""

    ensemble_id: bytes
    image_id: int
    image_hw: tuple[int, int]
    sections: tuple[Section, ...]
    is_per_image: bool = False
    """It has chosen its models itself; `ensemble_id` is then that of the list of models."""


def pack(image: ImageFile) -> bytes:
    """Return the bytes of one image's levels, which must be in ascending order."""
    assert len(image.ensemble_id) == ID_BYTES, "ids have 8 bytes"
    version = _version_of(image.sections, is_per_image=image.is_per_image)
    out = bytearray(MAGIC + bytes([version]) + image.ensemble_id)
    for number in (image.image_id, *image.image_hw):
        out += varint(number)
    out.append(len(image.sections))
    before: tuple[int, int] | None = None
    for section in image.sections:
        out += head(section, before, version)
        before = section.size_hw
    for section in image.sections:
        out += b"".join(section.payloads)
    return bytes(out) + zlib.crc32(out).to_bytes(_CRC_BYTES, "little")


def _version_of(sections: Sequence[Section], *, is_per_image: bool) -> int:
    if is_per_image:
        return VERSION_PER_IMAGE
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
    # A section's own version will do: only the number of its model makes it longer.
    version = _version_of([section], is_per_image=section.model is not None)
    return len(head(section, before, version)) + sum(map(len, section.payloads))


def unpack(data: bytes, source: str = "image file") -> ImageFile:
    """Read a file's bytes; `source` is what messages call it.

    Raises CacheError if it is truncated, altered, padded, or of another kind or version.
    """
    if len(data) < _LEAST_BYTES:
        raise _damaged(source, f"{len(data)} bytes are fewer than its header")
    if data[: len(MAGIC)] != MAGIC:
        raise _damaged(source, "it does not start as a file of compress-features")
    version = data[len(MAGIC)]
    if not VERSION_WITHOUT_CONTEXT <= version <= VERSION_FUSED:
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
        heads.append(read_head(cursor, [section for section, _ in heads], version))
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
        ensemble_id=ensemble_id, image_id=image_id, image_hw=image_hw, sections=sections,
        is_per_image=version == VERSION_PER_IMAGE,
    )  # fmt: skip


def _require_contexts(sections: Sequence[Section]) -> None:
    """ValueError unless each context is a level with a model."""
    modelled = {section.level for section in sections if section.kind.has_model}
    for section in sections:
        if section.context is not None and section.context not in modelled:
            raise ValueError(
                f"level {section.level} needs level {section.context}, which no model decodes"
            )


def _damaged(source: str, problem: str) -> CacheError:
    return CacheError(f"{source}: is damaged ({problem}): compress the features again")
