"""The bitstream container: what is packed comes back, and no damage goes unnoticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyze.bitstream import Bitstream, header_bytes, model_id, pack, require_model, unpack
from configs.errors import CacheError

SHA256 = "00112233445566778899aabbccddeeff" + "0" * 32
SIDES = st.integers(min_value=1, max_value=65535)
STREAMS = st.builds(
    Bitstream,
    level=st.integers(min_value=0, max_value=255),
    model_id=st.binary(min_size=16, max_size=16),
    size_hw=st.tuples(SIDES, SIDES),
    latent_hw=st.tuples(SIDES, SIDES),
    payloads=st.lists(st.binary(max_size=64), min_size=1, max_size=8).map(tuple),
)


def stream_of(payload: bytes = b"payload") -> Bitstream:
    return Bitstream(
        level=4,
        model_id=model_id(SHA256),
        size_hw=(1, 1),
        latent_hw=(1, 1),
        payloads=(payload,),
    )


def test_stream_of_a_1x1_map_comes_back_unchanged() -> None:
    assert unpack(pack(stream_of())) == stream_of()


def test_header_bytes_are_all_bytes_but_the_payload() -> None:
    assert len(pack(stream_of(b"12345"))) == header_bytes(1) + 5
    assert header_bytes(1) == 39


def test_model_id_is_the_first_sixteen_bytes_of_the_hash() -> None:
    assert model_id(SHA256).hex() == SHA256[:32]


@given(stream=STREAMS)
@settings(max_examples=200, deadline=None)
def test_every_stream_comes_back_unchanged(stream: Bitstream) -> None:
    assert unpack(pack(stream)) == stream


@given(stream=STREAMS, data=st.data())
@settings(max_examples=500, deadline=None)
def test_flipped_bits_are_always_a_cache_error(stream: Bitstream, data: st.DataObject) -> None:
    packed = bytearray(pack(stream))
    places = st.integers(min_value=0, max_value=len(packed) * 8 - 1)
    for place in data.draw(st.sets(places, min_size=1, max_size=4)):
        packed[place // 8] ^= 1 << place % 8
    with pytest.raises(CacheError):
        unpack(bytes(packed))


@given(stream=STREAMS, data=st.data())
@settings(max_examples=300, deadline=None)
def test_truncated_stream_is_always_a_cache_error(stream: Bitstream, data: st.DataObject) -> None:
    packed = pack(stream)
    kept = data.draw(st.integers(min_value=0, max_value=len(packed) - 1))
    with pytest.raises(CacheError):
        unpack(packed[:kept])


@given(garbage=st.binary(max_size=256))
@settings(max_examples=300, deadline=None)
def test_garbage_is_always_a_cache_error(garbage: bytes) -> None:
    with pytest.raises(CacheError):
        unpack(garbage)


def test_appended_bytes_are_a_cache_error_that_names_the_file() -> None:
    with pytest.raises(CacheError, match=r"image_7\.bin: is damaged .*checksum.*compress"):
        unpack(pack(stream_of()) + b"\0", source="image_7.bin")


def test_stream_of_another_level_or_model_is_refused_by_name() -> None:
    with pytest.raises(CacheError, match="holds level 4, not level 2"):
        require_model(stream_of(), level=2, expected_id=model_id(SHA256))
    with pytest.raises(CacheError, match="was made by model 0011"):
        require_model(stream_of(), level=4, expected_id=bytes(16))
