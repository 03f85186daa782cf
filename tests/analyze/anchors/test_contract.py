"""Anchors on a real tiny cache: what comes back, what it costs, and what damage does."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyze.anchors.anchor_rate_distortion import AnchorMeasurement, measure_anchor
from analyze.anchors.catalogue import ANCHORS
from analyze.anchors.contract import AnchorCodec, codec_id, decode_map, fitting_indices
from analyze.anchors.float16 import Float16Anchor, Float16Codec
from analyze.anchors.klt import KltAnchor, coefficients
from analyze.anchors.names import IMAGE_ANCHORS
from analyze.anchors.picture import PictureAnchor
from analyze.maps.map_source import DecodedMaps
from analyze.streams.level_file import bytes_in_pyramid, unpack_level
from configs.errors import CacheError
from data.reading.level_reader import LevelReader
from tests.support.tiny_anchors import SMALL, restored_from, sample_of, stream_of
from tests.support.tiny_anchors import fitted as fitted
from tests.support.tiny_anchors import train as train
from tests.support.tiny_anchors import val as val

SIZES = [(1, 1), (3, 5), (13, 21)]


@pytest.fixture(scope="module")
def measured(
    fitted: dict[str, list[AnchorCodec]], val: LevelReader
) -> dict[str, list[AnchorMeasurement]]:
    return {
        name: [measure_anchor(name, codec, val, [0, 2]) for codec in codecs]
        for name, codecs in fitted.items()
    }


@pytest.mark.parametrize("size_hw", SIZES, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_map_of_any_size_comes_back_in_its_shape_and_near_its_values(
    name: str, size_hw: tuple[int, int], fitted: dict[str, list[AnchorCodec]], val: LevelReader
) -> None:
    values = sample_of(val, size_hw)
    codec = fitted[name][-1]
    restored = restored_from(codec, stream_of(codec, values))
    assert restored.dtype == np.float32
    assert restored.shape == values.shape
    assert float(np.square(restored - values).mean()) < 0.05 * float(values.var())


@pytest.mark.parametrize("name", [name for name in SMALL if name != "float16"])
def test_more_rate_gives_less_error(
    name: str, measured: dict[str, list[AnchorMeasurement]]
) -> None:
    points = measured[name]
    assert [each.real_bpp for each in points] == sorted(each.real_bpp for each in points)
    errors = [each.mse for each in points]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * errors[0]


def test_uniform_error_is_at_most_half_a_step_within_the_trained_range(
    fitted: dict[str, list[AnchorCodec]], train: LevelReader, val: LevelReader
) -> None:
    low, high = train.statistics.minimum, train.statistics.maximum
    values = np.array(val.sample(1), dtype=np.float32)
    held = (values >= low) & (values <= high)
    assert 0 < held.sum() < held.size, "some values of val must lie outside, to see them clipped"
    for codec in fitted["uniform"]:
        step: Any = codec.step  # type: ignore[attr-defined]
        restored = codec.decode(codec.encode(values), values.shape[:2])
        error = np.abs(restored - values)
        assert (error <= 0.501 * step)[held].all()
        limit = np.clip(values, low, high)
        np.testing.assert_allclose(restored[~held], limit[~held], rtol=1e-5, atol=1e-5)


def test_klt_error_is_at_most_half_a_step_in_every_coefficient(
    fitted: dict[str, list[AnchorCodec]], val: LevelReader
) -> None:
    values = np.array(val.sample(1), dtype=np.float32)
    for codec in fitted["klt"]:
        model: Any = codec
        restored = codec.decode(codec.encode(values), values.shape[:2])
        error = coefficients(values, model.mean, model.axes) - coefficients(
            restored, model.mean, model.axes
        )
        # float32 maps round the coefficients a little.
        assert np.abs(error).max() <= 0.501 * model.step
        assert np.abs(error).max() > 0.4 * model.step


def test_klt_sends_no_component_after_the_last_that_is_not_zero(
    train: LevelReader, val: LevelReader
) -> None:
    (codec,) = KltAnchor(relative_steps=(16.0,)).fit(train, range(train.num_samples))
    values = np.array(val.sample(0), dtype=np.float32)
    symbols = codec.symbols(values)
    last = int(np.flatnonzero(symbols.any(axis=1))[-1])
    payload = codec.encode(values)
    assert int.from_bytes(payload[:2], "little") == last + 1 < len(symbols)
    restored = (symbols.T * codec.step) @ codec.axes.T + codec.mean
    expected = restored.reshape(values.shape)
    np.testing.assert_allclose(codec.decode(payload, values.shape[:2]), expected, atol=1e-3)
    # The mean by itself needs no component.
    flat = np.broadcast_to(codec.mean, (2, 3, len(codec.mean)))
    payload = codec.encode(flat)
    assert int.from_bytes(payload[:2], "little") == 0
    np.testing.assert_array_equal(codec.decode(payload, (2, 3)), flat)


@pytest.mark.parametrize("payload", [b"", b"1", b"\xff\xff1234"], ids=len)
def test_klt_payload_without_its_number_of_components_is_a_cache_error(
    payload: bytes, fitted: dict[str, list[AnchorCodec]]
) -> None:
    with pytest.raises(CacheError, match="KLT coefficients are damaged"):
        fitted["klt"][0].decode(payload, (3, 5))


def test_klt_beats_the_uniform_quantiser_at_equal_error(
    measured: dict[str, list[AnchorMeasurement]],
) -> None:
    uniform = measured["uniform"][1]
    finest_first = measured["klt"][::-1]
    errors = [each.mse for each in finest_first]
    assert errors[0] < uniform.mse < errors[-1]
    rates = [each.real_bpp for each in finest_first]
    rate_there = np.interp(np.log(uniform.mse), np.log(errors), rates)
    assert rate_there < 0.95 * uniform.real_bpp


@pytest.mark.parametrize("name", ["uniform", "klt"])
def test_real_bytes_are_within_three_percent_of_the_ideal_on_the_split_it_was_fitted_to(
    name: str, fitted: dict[str, list[AnchorCodec]], train: LevelReader
) -> None:
    for codec in fitted[name]:
        found = measure_anchor(name, codec, train, range(train.num_samples))
        assert found.ideal_bpp is not None
        assert found.ideal_bpp < found.payload_bpp < 1.03 * found.ideal_bpp


def test_float16_is_lossless_on_a_float16_cache_and_smaller_than_it(
    measured: dict[str, list[AnchorMeasurement]], val: LevelReader
) -> None:
    (found,) = measured["float16"]
    assert found.mse == 0
    assert found.psnr_db == np.inf
    assert found.ideal_bpp is None
    assert found.real_bpp < 16 * val.info.num_channels


def test_float16_clips_what_it_cannot_hold() -> None:
    codec = Float16Codec(zstd_level=1, num_channels=1)
    values = np.array([[[1e6], [-1e6], [0.5]]], dtype=np.float32)
    expected = np.array([[[65504], [-65504], [0.5]]], dtype=np.float32)
    np.testing.assert_array_equal(codec.decode(codec.encode(values), (1, 3)), expected)


def test_measurement_adds_up_to_the_bitstreams_it_stands_for(
    fitted: dict[str, list[AnchorCodec]], val: LevelReader, tmp_path: Path
) -> None:
    codec = fitted["klt"][1]
    shapes = [val.shape(index) for index in range(val.num_samples)]
    decoded = DecodedMaps(tmp_path / "maps", shapes, val.dtype)
    found = measure_anchor("KLT over channels", codec, val, [0, 2], decoded)
    error, num_bytes, payload_bytes, positions, pixels = 0.0, 0, 0, 0, 0
    for index in (0, 2):
        values = np.array(val.sample(index), dtype=np.float32)
        data = stream_of(codec, values)
        restored = restored_from(codec, data)
        np.testing.assert_array_equal(decoded.read(index), restored.astype(val.dtype))
        error += float(np.square(restored.astype(np.float64) - values).sum())
        section = unpack_level(data, level=0, identity=codec_id(codec))
        num_bytes += bytes_in_pyramid(section, val, index)
        payload_bytes += len(section.payloads[0])
        positions += values.shape[0] * values.shape[1]
        pixels += val.manifest.samples[index].height * val.manifest.samples[index].width
    assert found.anchor == "KLT over channels"
    assert found.point == "step 0.5 std"
    assert found.mse == pytest.approx(error / positions / 256)
    assert found.real_bpp == pytest.approx(num_bytes * 8 / positions)
    assert found.bits_per_pixel == pytest.approx(num_bytes * 8 / pixels)
    assert found.payload_bpp == pytest.approx(payload_bytes * 8 / positions)
    assert 2 * 5 <= num_bytes - payload_bytes <= 2 * 8
    assert found.encode_ms > 0
    assert found.decode_ms > 0


@pytest.mark.parametrize("name", SMALL)
def test_damaged_stream_is_a_cache_error(
    name: str, fitted: dict[str, list[AnchorCodec]], val: LevelReader
) -> None:
    codec = fitted[name][0]
    data = stream_of(codec, sample_of(val, (3, 5)))
    for kept in (0, 10, 26, len(data) // 2, len(data) - 1):
        with pytest.raises(CacheError, match="damaged"):
            restored_from(codec, data[:kept])
    for place in (0, 5, 30, 29, len(data) // 2, len(data) - 1):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        with pytest.raises(CacheError):
            restored_from(codec, bytes(flipped))


@pytest.mark.parametrize("payload", [b"", b"1234", b"12345678" + bytes(40)], ids=len)
@pytest.mark.parametrize("name", ["hevc-8", "av1-10", "float16"])
def test_payload_of_garbage_is_a_cache_error(
    name: str, payload: bytes, fitted: dict[str, list[AnchorCodec]]
) -> None:
    with pytest.raises(CacheError, match="compress the features again"):
        fitted[name][0].decode(payload, (3, 5))


@pytest.mark.parametrize("name", ["hevc-10", "av1-8", "float16"])
def test_payload_of_another_size_is_a_cache_error(
    name: str, fitted: dict[str, list[AnchorCodec]], val: LevelReader
) -> None:
    codec = fitted[name][0]
    with pytest.raises(CacheError, match=r"(is|are) damaged"):
        codec.decode(codec.encode(sample_of(val, (3, 5))), (4, 6))


def test_stream_of_another_rate_point_or_level_is_refused(
    fitted: dict[str, list[AnchorCodec]], val: LevelReader
) -> None:
    for codecs in (fitted["uniform"], fitted["klt"], fitted["hevc-8"]):
        data = stream_of(codecs[0], sample_of(val, (3, 5)))
        with pytest.raises(CacheError, match="was made by model"):
            decode_map(codecs[0], data, level=0, identity=codec_id(codecs[1]))
        with pytest.raises(CacheError, match="holds level 0, not level 1"):
            decode_map(codecs[0], data, level=1, identity=codec_id(codecs[0]))


def test_channel_without_any_variance_comes_back_exactly_from_the_uniform_quantiser(
    fitted: dict[str, list[AnchorCodec]], val: LevelReader
) -> None:
    model: Any = fitted["uniform"][0]
    constant = type(model)(
        bits=2, minimum=model.minimum, step=np.zeros_like(model.step), tables=model.tables
    )
    values = np.broadcast_to(model.minimum, (2, 3, len(model.minimum)))
    np.testing.assert_array_equal(constant.decode(constant.encode(values), (2, 3)), values)
    assert val.info.num_channels == len(model.minimum)


def test_fitting_samples_are_all_that_fit_in_evenly_spread(train: LevelReader) -> None:
    positions = int(np.prod(train.shapes[:, :2], axis=1).sum())
    assert fitting_indices(train) == [0, 1, 2, 3, 4, 5]
    assert fitting_indices(train, max_positions=positions // 2) == [0, 2, 4]
    assert fitting_indices(train, max_positions=1) == [0]


def test_every_usual_anchor_is_available_here_and_has_a_name_of_its_own() -> None:
    assert set(ANCHORS) == {*SMALL, *IMAGE_ANCHORS}
    assert [each.unavailable() for each in ANCHORS.values()] == [None] * len(ANCHORS)
    assert len({each.name for each in ANCHORS.values()}) == len(ANCHORS)


def test_anchor_names_the_settings_of_each_codec_that_it_fits(
    fitted: dict[str, list[AnchorCodec]],
) -> None:
    for name, codecs in fitted.items():
        settings = SMALL[name].points
        assert len(settings) == len(codecs)
        for each, codec in zip(settings, codecs, strict=True):
            assert each.items() <= dataclasses.asdict(codec).items()  # type: ignore[call-overload]


def test_usual_anchors_have_enough_rate_points_for_a_curve() -> None:
    assert all(
        len(each.quantisers) >= 3 for each in ANCHORS.values() if isinstance(each, PictureAnchor)
    )


def test_missing_zstandard_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    line = Float16Anchor().unavailable()
    assert line is not None
    assert "pip install zstandard" in line
    assert "\n" not in line
