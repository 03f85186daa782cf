"""Images through real codecs: what comes back, what it weighs, and what damage does."""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from analyze.image_coding import picture_coding
from analyze.image_coding.still_images import AV1_FRAME, HEVC_FRAME, JPEG, WEBP, StillCodec
from configs.errors import CacheError, ConfigError
from data.images.scenes import render_scene

FINE_AND_COARSE = {"JPEG": (90, 10), "WebP": (90, 5), "HEVC": (16, 44), "AV1": (12, 60)}
ALL = [
    pytest.param(
        codec,
        id=codec.standard,
        marks=pytest.mark.skipif(codec.unavailable() is not None, reason="is not installed"),
    )
    for codec in (JPEG, WEBP, HEVC_FRAME, AV1_FRAME)
]


@pytest.fixture(scope="module")
def scene() -> NDArray[np.uint8]:
    """Of odd sides."""
    return np.ascontiguousarray(render_scene(0, 13).image[:93, :121])


def error_of(codec: StillCodec, image: NDArray[Any], quality: int) -> float:
    back = codec.decode(codec.encode(image, quality))
    assert (back.shape, back.dtype) == (image.shape, image.dtype)
    return float(np.abs(back.astype(int) - image).mean())


@pytest.mark.parametrize("codec", ALL)
def test_image_comes_back_in_its_size_and_the_better_the_more_bytes(
    codec: StillCodec, scene: NDArray[np.uint8]
) -> None:
    fine, coarse = FINE_AND_COARSE[codec.standard]
    assert error_of(codec, scene, fine) < min(6, error_of(codec, scene, coarse))
    assert len(codec.encode(scene, fine)) > 2 * len(codec.encode(scene, coarse))
    assert codec.encode(scene, fine) == codec.encode(scene, fine)


@pytest.mark.parametrize("codec", ALL)
def test_colours_come_back_as_they_were_even_of_images_that_are_tiny(codec: StillCodec) -> None:
    fine, _ = FINE_AND_COARSE[codec.standard]
    for colour in ((255, 0, 0), (0, 255, 0), (20, 40, 250), (255, 255, 255), (0, 0, 0)):
        image = np.full((9, 15, 3), colour, dtype=np.uint8)
        assert error_of(codec, image, fine) < 4


@pytest.mark.parametrize("codec", ALL)
def test_damage_is_one_line(codec: StillCodec, scene: NDArray[np.uint8]) -> None:
    data = codec.encode(scene, FINE_AND_COARSE[codec.standard][1])
    for broken in (b"", data[:3], data[:20], bytes(len(data))):
        with pytest.raises(CacheError, match=r"^an? (image in|picture of) \w+ is damaged .+: "):
            codec.decode(broken)


@pytest.mark.parametrize("codec", [JPEG, WEBP], ids=["JPEG", "WebP"])
def test_what_pillow_codes_is_a_file_that_any_program_opens(
    codec: StillCodec, scene: NDArray[np.uint8]
) -> None:
    with Image.open(io.BytesIO(codec.encode(scene, 50))) as image:
        assert (image.format, image.size) == (codec.standard.upper(), (121, 93))


@pytest.mark.parametrize("codec", ALL[2:])
def test_packets_are_counted_and_four_bytes_for_the_size(
    codec: StillCodec, scene: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    packets = []
    real = picture_coding.encode_planes

    def noting(*given: Any) -> bytes:
        packets.append(real(*given))
        return packets[-1]

    monkeypatch.setattr("analyze.image_coding.still_images.encode_planes", noting)
    data = codec.encode(scene, 40)
    assert data == bytes([93, 0, 121, 0]) + packets[0]


@pytest.mark.parametrize("codec", [JPEG, WEBP], ids=["JPEG", "WebP"])
def test_image_that_a_format_cannot_hold_is_refused_in_one_line(codec: StillCodec) -> None:
    with pytest.raises(ConfigError, match=r"refuses an image of 70000 x 1 px .*leave this anchor"):
        codec.encode(np.zeros((1, 70_000, 3), dtype=np.uint8), 50)


@pytest.mark.parametrize("codec", ALL)
def test_codec_that_is_not_there_says_what_to_install(
    codec: StillCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "check", lambda _name: False)
    monkeypatch.setattr(av.codec, "codecs_available", set())
    reason = codec.unavailable()
    assert reason is not None
    assert "here has no" in reason
    assert "pip install" in reason
