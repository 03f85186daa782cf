"""Channels tiled into a picture, and the picture codecs that PyAV brings."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyze.anchors.picture import (
    PictureCodec,
    av1_anchor,
    grid_of,
    hevc_anchor,
    picture_hw,
    tile,
    untile,
)
from analyze.image_coding.picture_coding import (
    ENCODERS,
    decode_picture,
    encode_picture,
    usable_encoder,
)
from configs.errors import ConfigError

HELD = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name not in av.codec.codecs_available, reason=f"PyAV here has no {name}"
        ),
    )
    for name in ENCODERS
]


def test_256_channels_make_16_rows_of_16() -> None:
    assert grid_of(256) == (16, 16)
    assert [grid_of(n) for n in (1, 2, 3, 5, 12, 192, 257)] == [
        (1, 1), (1, 2), (2, 2), (2, 3), (3, 4), (14, 14), (16, 17)
    ]  # fmt: skip


def test_channels_lie_row_by_row_and_the_rest_repeats_its_neighbour() -> None:
    values = np.arange(3 * 8 * 9, dtype=np.uint16).reshape(8, 9, 3)
    picture = tile(values, 16)
    assert picture.shape == picture_hw((8, 9), 3, 16) == (16, 18)
    np.testing.assert_array_equal(picture[:8, :9], values[..., 0])
    np.testing.assert_array_equal(picture[:8, 9:], values[..., 1])
    np.testing.assert_array_equal(picture[8:, :9], values[..., 2])
    np.testing.assert_array_equal(picture[8:, 9:], values[..., 2])


@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.integers(1, 40))
def test_every_map_comes_back_from_its_picture(height: int, width: int, channels: int) -> None:
    values = np.arange(height * width * channels).reshape(height, width, channels)
    picture = tile(values, 64)
    assert picture.shape == picture_hw((height, width), channels, 64)
    assert min(picture.shape) >= 64
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    np.testing.assert_array_equal(untile(picture, (height, width), channels), values)


@pytest.mark.parametrize("name", HELD)
def test_an_encoder_leaves_the_priority_of_this_process_as_it_was(name: str) -> None:
    def policies() -> dict[str, int]:
        threads = [entry.name for entry in Path("/proc/self/task").iterdir()]
        return {thread: os.sched_getscheduler(int(thread)) for thread in threads}

    before = policies()
    encode_picture(np.zeros((64, 64), dtype=np.uint16), ENCODERS[name], 30, 8)
    after = policies()
    assert set(after.values()) == {os.SCHED_OTHER}
    assert after.items() >= before.items()


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("size_hw", [(64, 64), (64, 66), (208, 336)], ids=str)
@pytest.mark.parametrize("name", HELD)
def test_picture_comes_back_nearly_unchanged_at_a_fine_quantiser(
    name: str, size_hw: tuple[int, int], bit_depth: int
) -> None:
    rng = np.random.default_rng(2)
    rows, columns = np.indices(size_hw)
    waves = np.sin(rows / 5) * np.cos(columns / 7) + 0.1 * rng.normal(size=size_hw)
    top = 2**bit_depth - 1
    picture = np.clip(np.rint((waves + 1.5) / 3 * top), 0, top).astype(np.uint16)
    data = encode_picture(picture, ENCODERS[name], 2, bit_depth)
    restored = decode_picture(data, ENCODERS[name], size_hw, bit_depth)
    assert restored.dtype == np.uint16
    assert restored.shape == size_hw
    error = restored.astype(float) - picture
    assert float(np.square(error).mean()) < 2.0
    assert abs(float(error.mean())) < 0.3


@pytest.mark.parametrize("name", HELD)
def test_smallest_picture_is_coded(name: str) -> None:
    side_px = ENCODERS[name].min_side_px
    picture = np.arange(side_px**2, dtype=np.uint16).reshape(side_px, side_px) % 256
    data = encode_picture(picture, ENCODERS[name], 2, 8)
    restored = decode_picture(data, ENCODERS[name], (side_px, side_px), 8)
    assert np.abs(restored.astype(int) - picture).mean() < 2.0


@pytest.mark.parametrize("name", HELD)
def test_picture_of_one_value_takes_few_bytes_and_comes_back(name: str) -> None:
    codec = PictureCodec(encoder=name, bit_depth=10, quantiser=20, num_channels=256)
    values = np.full((3, 5, 256), -1.25, dtype=np.float32)
    payload = codec.encode(values)
    assert len(payload) < 130
    np.testing.assert_array_equal(codec.decode(payload, (3, 5)), values)


@pytest.mark.parametrize("name", HELD)
def test_smallest_and_largest_value_survive_ten_bits(name: str) -> None:
    codec = PictureCodec(encoder=name, bit_depth=10, quantiser=0, num_channels=4)
    values = np.zeros((16, 16, 4), dtype=np.float32)
    values[..., 1], values[..., 2] = -7.0, 5.0
    restored = codec.decode(codec.encode(values), (16, 16))
    step = 12 / 1023
    np.testing.assert_allclose(restored, values, atol=3 * step)


def test_hevc_codes_grey_alone_and_av1_flat_chroma() -> None:
    assert ENCODERS["libx265"].pixel_format(10) == "gray10le"
    assert ENCODERS["libsvtav1"].pixel_format(8) == "yuv420p"


@pytest.mark.parametrize("name", HELD)
def test_picture_that_the_encoder_refuses_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} refuses a picture of 2 x 70000 px"):
        encode_picture(np.zeros((70_000, 2), dtype=np.uint16), ENCODERS[name], 30, 8)


@pytest.mark.parametrize("shape", [(70_000, 64), (64, 70_000)])
@pytest.mark.parametrize("name", HELD)
def test_picture_of_a_very_long_side_is_coded_whole_or_refused(
    name: str, shape: tuple[int, int]
) -> None:
    """SVT-AV1 takes the first 4,464 px of 70,000 and says nothing."""
    picture = np.full(shape, 77, dtype=np.uint16)
    try:
        data = encode_picture(picture, ENCODERS[name], 20, 8)
    except ConfigError as error:
        assert f"{name} refuses a picture of {shape[1]} x {shape[0]} px" in str(error)
    else:
        restored = decode_picture(data, ENCODERS[name], shape, 8).astype(int)
        assert np.abs(restored - picture).max() <= 3


def test_encoder_stays_silent(capfd: pytest.CaptureFixture[str]) -> None:
    for anchor in (hevc_anchor(8, (30,)), av1_anchor(8, (30,))):
        encoder = usable_encoder(anchor.encoders)
        encode_picture(np.zeros((64, 64), dtype=np.uint16), encoder, 30, 8)
    assert capfd.readouterr() == ("", "")


def test_av1_falls_back_to_libaom(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"libaom-av1", "libdav1d"}
    monkeypatch.setattr(av.codec, "codecs_available", held)
    assert usable_encoder(av1_anchor(8).encoders).name == "libaom-av1"


def test_missing_encoder_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # An encoder without a decoder of its streams is of no use either.
    monkeypatch.setattr(av.codec, "codecs_available", {"libx264", "libsvtav1"})
    for anchor, missing in (
        (hevc_anchor(10), "HEVC intra, 10 bit: .* no libx265 with a decoder: pip install"),
        (av1_anchor(8), "AV1 intra, 8 bit: .* no libsvtav1 or libaom-av1 with a decoder: pip"),
    ):
        line = anchor.unavailable()
        assert line is not None
        assert "\n" not in line
        with pytest.raises(ConfigError) as raised:
            usable_encoder(anchor.encoders)
        assert line == f"{anchor.name}: {raised.value}"
        assert re.search(missing, line)


def test_missing_pyav_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    line = hevc_anchor(8).unavailable()
    assert line is not None
    assert line.startswith("HEVC intra, 8 bit: PyAV cannot be used")
    assert "pip install 'av>=15'" in line
