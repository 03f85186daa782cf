"""The file of one image: all its levels, and everything a decoder needs besides the models.

docs/bitstream.md has the layout. What levels share is told once; what follows from the rest (the
latents' shape, a level half as large as the one before) is not told at all.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum

from configs.errors import CacheError

MAGIC = b"FPNI"
VERSION = 2
ID_BYTES = 8
MAX_PAYLOADS = 8
MAX_SIDE = 2**16 - 1
MAX_POSITIONS = 2**22
"""Largest map, in positions: what a decoder makes room for is known before it believes a size."""

_CRC_BYTES = 4
_LEAST_BYTES = len(MAGIC) + 1 + ID_BYTES + 4 + _CRC_BYTES
_OWN_SIZE = 0x40
_MOST_VARINT_BYTES = 9


class Kind(IntEnum):
    """How a level is sent: coded by a model, computed from another level, or as its mean."""

    CODED = 0
    DERIVED = 1
    DROPPED = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One level. `size_hw` is in feature positions; `stages`, `payloads` are for coded levels."""

    level: int
    kind: Kind
    size_hw: tuple[int, int]
    stages: int = 0
    """Stride-2 stages of the codec: a latent stands for 2^stages positions in each direction."""
    payloads: tuple[bytes, ...] = ()
    source: int = 0
    """Level of which a derived one is [::2, ::2]."""

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
    out = bytearray(MAGIC + bytes([VERSION]) + image.ensemble_id)
    for number in (image.image_id, *image.image_hw):
        out += _varint(number)
    out.append(len(image.sections))
    before: tuple[int, int] | None = None
    for section in image.sections:
        out += _head(section, before)
        before = section.size_hw
    for section in image.sections:
        out += b"".join(section.payloads)
    return bytes(out) + zlib.crc32(out).to_bytes(_CRC_BYTES, "little")


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
    return len(_head(section, before)) + sum(len(payload) for payload in section.payloads)


def unpack(data: bytes, source: str = "image file") -> ImageFile:
    """Read a file's bytes; `source` is what messages call it.

    Raises CacheError if it is truncated, altered, padded, or of another kind or version.
    """
    if len(data) < _LEAST_BYTES:
        raise _damaged(source, f"{len(data)} bytes are fewer than its header")
    if data[: len(MAGIC)] != MAGIC:
        raise _damaged(source, "it does not start as a file of compress-features")
    if data[len(MAGIC)] != VERSION:
        raise CacheError(
            f"{source}: image file format {data[len(MAGIC)]}, this program reads {VERSION}: "
            "compress the features again, or decode with the program that wrote it"
        )
    # Checked before any length is believed, so that a flipped length is never followed.
    body = data[:-_CRC_BYTES]
    if zlib.crc32(body) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        raise _damaged(source, "its checksum does not match")
    try:
        return _parsed(body)
    except ValueError as error:
        raise _damaged(source, str(error)) from error


def _parsed(body: bytes) -> ImageFile:
    """Read what precedes the checksum; ValueError says what is impossible."""
    cursor = _Cursor(body, len(MAGIC) + 1)
    ensemble_id = cursor.take(ID_BYTES)
    image_id = cursor.varint()
    image_hw = (cursor.side(), cursor.side())
    heads: list[tuple[Section, list[int]]] = []
    for _ in range(cursor.byte()):
        heads.append(_read_head(cursor, [section for section, _ in heads]))
    sections = tuple(
        Section(
            level=section.level,
            kind=section.kind,
            size_hw=section.size_hw,
            stages=section.stages,
            payloads=tuple(cursor.take(length) for length in lengths),
            source=section.source,
        )
        for section, lengths in heads
    )
    if not sections or cursor.position != len(body):
        raise ValueError("its payload lengths do not add up to its size")
    return ImageFile(
        ensemble_id=ensemble_id, image_id=image_id, image_hw=image_hw, sections=sections
    )


def _head(section: Section, before: tuple[int, int] | None) -> bytes:
    """Return what precedes the payloads; a size that follows from the level `before` is left out.

    First byte: level (6 bits), kind (2). Second: stages (3), payloads - 1 (3), whether a size
    follows (1).
    """
    assert 0 <= section.level < 64 and 0 <= section.stages < 8
    assert len(section.payloads) <= MAX_PAYLOADS
    assert bool(section.payloads) == (section.kind is Kind.CODED)
    has_size = section.size_hw != _halved(before)
    out = bytearray([section.level | section.kind << 6])
    out.append(
        section.stages | max(0, len(section.payloads) - 1) << 3 | (_OWN_SIZE if has_size else 0)
    )
    for side in section.size_hw if has_size else ():
        out += _varint(side)
    if section.kind is Kind.DERIVED:
        out.append(section.source)
    for payload in section.payloads:
        out += _varint(len(payload))
    return bytes(out)


def _read_head(cursor: _Cursor, earlier: list[Section]) -> tuple[Section, list[int]]:
    """Inverse of `_head`: the section without its payloads, and their lengths."""
    first, second = cursor.byte(), cursor.byte()
    level, kind = first & 63, Kind(first >> 6)
    if earlier and level <= earlier[-1].level:
        raise ValueError("its levels are not in ascending order")
    size_hw = _halved(earlier[-1].size_hw if earlier else None)
    if second & _OWN_SIZE:
        size_hw = (cursor.side(), cursor.side())
    if size_hw is None or size_hw[0] * size_hw[1] > MAX_POSITIONS or second & 0x80:
        raise ValueError("its header holds impossible sizes")
    source = 0
    if kind is Kind.DERIVED:
        source = cursor.byte()
        sizes = {section.level: section.size_hw for section in earlier}
        if _halved(sizes.get(source)) != size_hw:
            raise ValueError(f"level {level} cannot come from level {source}")
    lengths: list[int] = []
    if kind is Kind.CODED:
        lengths = [cursor.varint() for _ in range((second >> 3 & 7) + 1)]
    elif second & 0x3F:
        raise ValueError("a level without model has a model's facts")
    section = Section(level=level, kind=kind, size_hw=size_hw, stages=second & 7, source=source)
    return section, lengths


class _Cursor:
    """Reads a file's fields one after another; ValueError where it ends too soon."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def take(self, num_bytes: int) -> bytes:
        if num_bytes > len(self._data) - self.position:
            raise ValueError("it ends within a field")
        self.position += num_bytes
        return self._data[self.position - num_bytes : self.position]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = 0
        for place in range(_MOST_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise ValueError("a number in it has no end")

    def side(self) -> int:
        side = self.varint()
        if not 1 <= side <= MAX_SIDE:
            raise ValueError("its header holds impossible sizes")
        return side


def _varint(number: int) -> bytes:
    """Return LEB128: seven bits a byte, lowest first, the highest bit set in all but the last."""
    assert 0 <= number < 2 ** (7 * _MOST_VARINT_BYTES)
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _halved(size_hw: tuple[int, int] | None) -> tuple[int, int] | None:
    return None if size_hw is None else ((size_hw[0] + 1) // 2, (size_hw[1] + 1) // 2)


def _damaged(source: str, problem: str) -> CacheError:
    return CacheError(f"{source}: is damaged ({problem}): compress the features again")
