"""The file of one image: what is packed comes back, it is small, and no damage goes unnoticed."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.file_format.image_file import ImageFile, pack, section_bytes, unpack
from analyze.file_format.section_heads import MAX_POSITIONS, Kind, Section
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
    return tuple(draw(beside_coarser_levels(draw(fused_into_the_finest(found)))))


@st.composite
def fused_into_the_finest(draw: st.DrawFn, found: list[Section]) -> list[Section]:
    """The sections, or with some of the coded ones fused into the finest of these."""
    chosen = [each for each in found if each.kind is Kind.CODED and draw(st.booleans())]
    if not chosen or found[-1].level > 31 or draw(st.booleans()):
        return found
    finest = chosen[0]
    fused = {each.level: replace(each, kind=Kind.FUSED, source=finest.level) for each in chosen}
    for level in fused.keys() - {finest.level}:
        fused[level] = replace(fused[level], stages=0, payloads=())
    return [fused.get(each.level, each) for each in found]


@st.composite
def beside_coarser_levels(draw: st.DrawFn, found: list[Section]) -> list[Section]:
    """The sections, some of which have the next coded one as context; of some nothing is sent."""
    context: int | None = None
    chained: list[Section] = []
    for section in reversed(found):
        if section.kind is Kind.CODED:
            if context is not None and draw(st.booleans()):
                section = replace(section, context=context)
                if draw(st.booleans()):
                    section = replace(section, kind=Kind.PREDICTED, payloads=())
            context = section.level
        chained.insert(0, section)
    return chained


@st.composite
def images(draw: st.DrawFn) -> ImageFile:
    found = draw(sections())
    is_per_image = not any(each.kind is Kind.FUSED for each in found) and draw(st.booleans())
    if is_per_image:
        models = st.integers(0, 255)
        found = tuple(
            replace(each, model=draw(models)) if each.kind.has_model else each for each in found
        )
    return ImageFile(
        ensemble_id=draw(st.binary(min_size=8, max_size=8)),
        image_id=draw(st.integers(min_value=0, max_value=2**40)),
        image_hw=draw(st.tuples(SIDES, SIDES)),
        sections=found,
        is_per_image=is_per_image,
    )


IMAGES = images()


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


def chained() -> ImageFile:
    """The same, each level beside the next coarser one, and nothing sent of level 0."""
    first, second, third, *others = pyramid().sections
    sections = (
        replace(first, kind=Kind.PREDICTED, payloads=(), context=1),
        replace(second, context=2),
        replace(third, context=3),
        *others,
    )
    return replace(pyramid(), sections=sections)


def fused() -> ImageFile:
    """The same pyramid, its first four levels coded in one."""
    first, *others, pool = pyramid().sections
    return replace(
        pyramid(),
        sections=(
            replace(first, kind=Kind.FUSED, source=0),
            *(replace(each, kind=Kind.FUSED, stages=0, payloads=()) for each in others),
            pool,
        ),
    )


def resealed(body: bytes | bytearray) -> bytes:
    """The bytes with a checksum that matches."""
    return bytes(body) + zlib.crc32(body).to_bytes(4, "little")


def test_five_levels_cost_forty_two_bytes_beside_their_payloads() -> None:
    data = pack(pyramid())
    assert len(data) == 4 * len(b"payload") + 42
    own = section_bytes(pyramid())
    assert own == {0: 6 + 7, 1: 3 + 7, 2: 3 + 7, 3: 3 + 7, 4: 3}


def test_context_costs_a_byte_and_a_level_of_which_nothing_is_sent_its_head() -> None:
    assert section_bytes(chained()) == {0: 6, 1: 4 + 7, 2: 4 + 7, 3: 3 + 7, 4: 3}
    assert unpack(pack(chained())) == chained()


def test_file_without_context_is_to_the_byte_what_version_2_wrote() -> None:
    of_version_2 = bytes.fromhex(
        "46504e4902656e73656d626c658b01aa03800505004450880107010407020407030407440003"
        "7061796c6f61647061796c6f61647061796c6f61647061796c6f61647ed47e6b"
    )
    assert pack(pyramid()) == of_version_2
    assert unpack(of_version_2) == pyramid()
    of_version_3 = resealed(of_version_2[:4] + b"\x03" + of_version_2[5:-4])
    assert unpack(of_version_3) == pyramid()


def test_choice_of_its_own_costs_an_image_a_byte_for_each_model() -> None:
    sections = [
        replace(each, model=each.level) if each.kind.has_model else each
        for each in pyramid().sections
    ]
    chosen = replace(pyramid(), sections=tuple(sections), is_per_image=True)
    assert len(pack(chosen)) == len(pack(pyramid())) + 4
    assert section_bytes(chosen)[0] == section_bytes(pyramid())[0] + 1
    assert unpack(pack(chosen)) == chosen


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({1: {"context": 1}}, "level 1 has no coarser level as its context"),
        ({1: {"context": 4}}, "level 1 needs level 4, which no model decodes"),
        ({1: {"context": 9}}, "level 1 needs level 9, which no model decodes"),
        ({4: {"context": 5}}, "a level without model has a model's facts"),
    ],
)
def test_context_that_no_model_decodes_is_refused(
    changes: dict[int, dict[str, int]], problem: str
) -> None:
    sections = tuple(replace(each, **changes.get(each.level, {})) for each in chained().sections)
    with pytest.raises(CacheError, match=problem):
        unpack(pack(replace(chained(), sections=sections)))


def test_version_2_knows_no_context() -> None:
    data = pack(chained())
    with pytest.raises(CacheError, match="its version knows no context"):
        unpack(resealed(data[:4] + b"\x02" + data[5:-4]))


def test_fused_levels_cost_three_bytes_beside_the_one_that_has_the_payloads() -> None:
    assert section_bytes(fused()) == {0: 7 + 7, 1: 3, 2: 3, 3: 3, 4: 3}
    data = pack(fused())
    assert data[4] == 5
    assert unpack(data) == fused()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({1: {"source": 3}}, "level 1 is fused into level 3, which holds no others"),
        ({2: {"source": 1}}, "level 2 is fused into level 1, which holds no others"),
        ({1: {"stages": 2}}, "a level without model has a model's facts"),
        ({1: {"context": 2}}, "a level without model has a model's facts"),
        ({0: {"context": 2}}, "level 0 is fused with others, and has a context"),
    ],
)
def test_fused_level_that_no_payload_holds_is_refused(
    changes: dict[int, dict[str, int]], problem: str
) -> None:
    sections = tuple(replace(each, **changes.get(each.level, {})) for each in fused().sections)
    with pytest.raises(CacheError, match=problem):
        unpack(pack(replace(fused(), sections=sections)))


def test_level_by_itself_may_name_a_context_that_lies_elsewhere() -> None:
    alone = replace(pyramid(), sections=(replace(pyramid().sections[0], context=1),))
    assert unpack(pack(alone)) == alone


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
        (good[:4] + b"\x09" + good[5:], "image file format 9, this program reads 2 to 5"),
        (good[:13] + b"\xff" * 12 + good[25:], "a number in it has no end"),
        (good[:19] + b"\x00" + good[20:], "do not add up"),
        (good[:20] + b"\xc0" + good[21:], "level 0 has no coarser level"),
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
