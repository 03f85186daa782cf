"""The file of one image: what is packed comes back, it is small, and no damage goes unnoticed."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.streams.image_file import (
    MAX_POSITIONS,
    ImageFile,
    Kind,
    Section,
    pack,
    section_bytes,
    unpack,
)
from configs.errors import CacheError

SIDES = st.integers(min_value=1, max_value=2000)


@st.composite
def sections(draw: st.DrawFn) -> tuple[Section, ...]:
    levels = sorted(draw(st.sets(st.integers(0, 63), min_size=1, max_size=6)))
    found: list[Section] = []
    for level in levels:
        halved = found and draw(st.booleans())
        size_hw = draw(st.tuples(SIDES, SIDES))
        if halved:
            size_hw = ((found[-1].size_hw[0] + 1) // 2, (found[-1].size_hw[1] + 1) // 2)
        kind = draw(st.sampled_from([Kind.CODED, Kind.DROPPED, *([Kind.DERIVED] * bool(halved))]))
        if kind is Kind.CODED:
            payloads = tuple(draw(st.lists(st.binary(max_size=200), min_size=1, max_size=8)))
            stages = draw(st.integers(0, 7))
            found.append(
                Section(level=level, kind=kind, size_hw=size_hw, stages=stages, payloads=payloads)
            )
        else:
            source = found[-1].level if kind is Kind.DERIVED else 0
            found.append(Section(level=level, kind=kind, size_hw=size_hw, source=source))
    return tuple(found)


IMAGES = st.builds(
    ImageFile,
    ensemble_id=st.binary(min_size=8, max_size=8),
    image_id=st.integers(min_value=0, max_value=2**40),
    image_hw=st.tuples(SIDES, SIDES),
    sections=sections(),
)


def pyramid(payload: bytes = b"payload") -> ImageFile:
    """An image of five levels, each half as large as the one before; the last is derived."""
    sizes = [(80, 136), (40, 68), (20, 34), (10, 17)]
    coded = [
        Section(level=level, kind=Kind.CODED, size_hw=size, stages=4, payloads=(payload,))
        for level, size in enumerate(sizes)
    ]
    pool = Section(level=4, kind=Kind.DERIVED, size_hw=(5, 9), source=3)
    return ImageFile(
        ensemble_id=b"ensemble", image_id=139, image_hw=(426, 640), sections=(*coded, pool)
    )


def resealed(body: bytes | bytearray) -> bytes:
    """The bytes with a checksum that matches."""
    return bytes(body) + zlib.crc32(body).to_bytes(4, "little")


def test_five_levels_cost_forty_two_bytes_beside_their_payloads() -> None:
    data = pack(pyramid())
    assert len(data) == 4 * len(b"payload") + 42
    own = section_bytes(pyramid())
    assert own == {0: 6 + 7, 1: 3 + 7, 2: 3 + 7, 3: 3 + 7, 4: 3}


def test_latents_are_as_many_as_strides_begin_within_the_map() -> None:
    assert [section.latent_hw for section in pyramid().sections[:4]] == [
        (5, 9), (3, 5), (2, 3), (1, 2),
    ]  # fmt: skip


@given(image=IMAGES)
@settings(max_examples=200, deadline=None)
def test_every_image_comes_back_unchanged(image: ImageFile) -> None:
    data = pack(image)
    assert unpack(data) == image
    shared = len(data) - sum(section_bytes(image).values())
    assert 20 <= shared <= 29


@given(image=IMAGES, data=st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bits_are_always_a_cache_error(image: ImageFile, data: st.DataObject) -> None:
    packed = bytearray(pack(image))
    places = st.integers(min_value=0, max_value=len(packed) * 8 - 1)
    for place in data.draw(st.sets(places, min_size=1, max_size=4)):
        packed[place // 8] ^= 1 << place % 8
    with pytest.raises(CacheError):
        unpack(bytes(packed))


@given(image=IMAGES, data=st.data())
@settings(max_examples=300, deadline=None)
def test_truncated_file_is_always_a_cache_error(image: ImageFile, data: st.DataObject) -> None:
    packed = pack(image)
    kept = data.draw(st.integers(min_value=0, max_value=len(packed) - 1))
    with pytest.raises(CacheError):
        unpack(packed[:kept])


@given(image=IMAGES, data=st.data())
@settings(max_examples=500, deadline=None)
def test_altered_header_with_its_checksum_mended_is_an_image_or_a_cache_error(
    image: ImageFile, data: st.DataObject
) -> None:
    body = bytearray(pack(image)[:-4])
    place = data.draw(st.integers(min_value=0, max_value=min(len(body), 60) - 1))
    body[place] = data.draw(st.integers(min_value=0, max_value=255))
    try:
        found = unpack(resealed(body))
    except CacheError:
        return
    assert all(s.size_hw[0] * s.size_hw[1] <= MAX_POSITIONS for s in found.sections)
    assert sum(len(payload) for s in found.sections for payload in s.payloads) <= len(body)


@given(garbage=st.binary(max_size=256))
@settings(max_examples=200, deadline=None)
def test_garbage_is_always_a_cache_error(garbage: bytes) -> None:
    with pytest.raises(CacheError):
        unpack(garbage)
    with pytest.raises(CacheError):
        unpack(resealed(garbage))


def test_each_impossible_field_has_a_line_that_names_file_problem_and_way_out() -> None:
    good = pack(pyramid())[:-4]
    for altered, problem in (
        (good[:-1], "do not add up|ends within a field"),
        (b"XXXX" + good[4:], "does not start as a file of compress-features"),
        (good[:4] + b"\x09" + good[5:], "image file format 9, this program reads 2"),
        (good[:13] + b"\xff" * 12 + good[25:], "a number in it has no end"),
        (good[:19] + b"\x00" + good[20:], "do not add up"),
        (good[:20] + b"\xc0" + good[21:], "Kind"),
        (good + b"\0", "do not add up"),
    ):
        with pytest.raises(CacheError, match=rf"^7\.fpn: .*({problem}).*compress"):
            unpack(resealed(altered), "7.fpn")


def test_derived_level_of_the_wrong_size_is_refused() -> None:
    wrong = ImageFile(
        ensemble_id=b"ensemble", image_id=1, image_hw=(1, 1),
        sections=(
            Section(level=0, kind=Kind.DROPPED, size_hw=(8, 8)),
            Section(level=1, kind=Kind.DERIVED, size_hw=(5, 4), source=0),
        ),
    )  # fmt: skip
    with pytest.raises(CacheError, match="level 1 cannot come from level 0"):
        unpack(pack(wrong))
