"""What the file of an image says of each level: a head, which precedes all payloads.

What follows from the rest (the latents' shape, a level half as large as the one before) is left
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from analyze.file_format.file_fields import Cursor, varint

VERSION_WITHOUT_CONTEXT = 2
VERSION = 3
VERSION_PER_IMAGE = 4
VERSION_FUSED = 5
MAX_MODELS = 256
"""Of which an image can choose: their number takes a byte."""
MAX_PAYLOADS = 8
MAX_POSITIONS = 2**22
"""Largest map, in positions: what a decoder makes room for is known before it believes a size."""

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
    model: int | None = None
    """Which of the index's models it is, where the image has chosen; None: the ensemble says it."""

    @property
    def has_payloads(self) -> bool:
        """Whether payloads belong to it, for its kind."""
        return self.kind is Kind.CODED or (self.kind is Kind.FUSED and self.source == self.level)

    @property
    def latent_hw(self) -> tuple[int, int]:
        """Shape of the latents y of a coded level."""
        return -(-self.size_hw[0] >> self.stages), -(-self.size_hw[1] >> self.stages)


def head(section: Section, before: tuple[int, int] | None, version: int) -> bytes:
    """Return what precedes the payloads; a size that follows from the level `before` is left out.

    First byte: level (5 bits), kind (3); before version 5, level (6), kind (2). Second: stages (3),
    payloads - 1 (3), whether a size follows (1), whether the level of a context follows (1).
    """
    bit = _kind_bit(version)
    assert 0 <= section.level < 1 << bit and section.kind < 1 << 8 - bit
    assert 0 <= section.stages < 8 and len(section.payloads) <= MAX_PAYLOADS
    assert bool(section.payloads) == section.has_payloads
    assert section.kind is not Kind.PREDICTED or section.context is not None
    names_model = version == VERSION_PER_IMAGE and section.kind.has_model
    assert (section.model is not None) == names_model, "models are named where they are chosen"
    has_size = section.size_hw != _halved(before)
    out = bytearray([section.level | section.kind << bit])
    follows = (_OWN_SIZE if has_size else 0) | (_CONTEXT if section.context is not None else 0)
    out.append(section.stages | max(0, len(section.payloads) - 1) << 3 | follows)
    for side in section.size_hw if has_size else ():
        out += varint(side)
    if section.context is not None:
        out.append(section.context)
    if section.model is not None:
        assert 0 <= section.model < MAX_MODELS
        out.append(section.model)
    if section.kind in (Kind.DERIVED, Kind.FUSED):
        out.append(section.source)
    for payload in section.payloads:
        out += varint(len(payload))
    return bytes(out)


def read_head(cursor: Cursor, earlier: list[Section], version: int) -> tuple[Section, list[int]]:
    """Inverse of `head`: the section without its payloads, and their lengths.

    `earlier` are those before it. ValueError says what is impossible.
    """
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
    section = Section(
        level=level, kind=kind, size_hw=size_hw, stages=second & 7, context=context,
        model=cursor.byte() if version == VERSION_PER_IMAGE and kind.has_model else None,
        source=cursor.byte() if kind in (Kind.DERIVED, Kind.FUSED) else 0,
    )  # fmt: skip
    _require_source(section, earlier)
    lengths: list[int] = []
    if section.has_payloads:
        lengths = [cursor.varint() for _ in range((second >> 3 & 7) + 1)]
    elif second & (0x38 if kind is Kind.PREDICTED else 0x3F | _CONTEXT):
        raise ValueError("a level without model has a model's facts")
    if kind is Kind.FUSED and context is not None:
        raise ValueError(f"level {level} is fused with others, and has a context")
    return section, lengths


def _kind_bit(version: int) -> int:
    """Return where the kind begins in a head's first byte: without FUSED it has two bits."""
    return 5 if version == VERSION_FUSED else 6


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
