"""A map as it is stored: its casts to the last bit, its sums against float64's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import CacheError
from data.cache.channel_statistics import ChannelStatistics
from data.coding.byte_code import ByteCode
from data.writing.stored_sample import SampleCaster


def halves_and_their_neighbours() -> NDArray[Any]:
    """All finite float16, what lies just beside them, and the ties between them; float32."""
    halves = np.arange(2**15, dtype=np.uint16).view(np.float16)
    values = np.sort(halves[np.isfinite(halves)].astype(np.float32))
    beside = [np.nextafter(values, np.float32(end)) for end in (-np.inf, np.inf)]
    ties = (values[1:] + values[:-1]) / 2
    largest = np.array([65519.99, 65520, 65536, 1e30, np.inf], dtype=np.float32)
    positive = np.concatenate([values, *beside, ties, largest])
    return np.concatenate([positive, -positive])


def cast(computed: NDArray[Any], dtype: str) -> tuple[NDArray[Any], ChannelStatistics]:
    """What is stored of float32 [C, n] as [n, C], and its statistics."""
    channels, positions = computed.shape
    hwc = torch.from_numpy(computed).reshape(channels, 1, positions).permute(1, 2, 0)
    sample = SampleCaster(dtype).cast(hwc, level=0)
    return np.frombuffer(sample.content, dtype).reshape(positions, channels), sample.statistics


def test_every_float16_its_neighbours_and_ties_are_cast_as_numpy_casts_them() -> None:
    values = halves_and_their_neighbours()
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    values, expected = values[np.isfinite(expected)], expected[np.isfinite(expected)]
    stored, _ = cast(values[None], "float16")
    np.testing.assert_array_equal(stored[:, 0].view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("exponent", range(-30, 16))
def test_what_is_summed_up_are_the_values_that_are_stored(exponent: int) -> None:
    rng = np.random.default_rng(exponent + 30)
    values = (rng.uniform(-1, 1, 70) * 2.0**exponent).astype(np.float32)
    stored, found = cast(values[None], "float16")
    exact = stored[:, 0].astype(np.float64)
    error = exact - values
    np.testing.assert_allclose(found.mean, exact.mean(), rtol=1e-5, atol=1e-6 * abs(exact).max())
    np.testing.assert_allclose(found.m2, exact.var() * 70, rtol=1e-5)
    np.testing.assert_allclose(found.cast_squared_error, (error**2).sum(), rtol=1e-5)
    assert found.cast_max_error == abs(error).max()
    assert (found.minimum[0], found.maximum[0]) == (exact.min(), exact.max())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, "infinite or NaN features") for value in (
            np.nan, -np.nan, np.inf, -np.inf,
            *np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32),
        )),
        *((value, "does not fit float16") for value in (65520, -65520, 1e30)),
    ],
)  # fmt: skip
def test_what_float16_cannot_hold_is_refused_with_its_reason(value: float, reason: str) -> None:
    values = np.linspace(-1, 1, 64, dtype=np.float32)
    values[37] = value
    with pytest.raises(CacheError, match=reason):
        cast(values[None], "float16")


@given(
    num_channels=st.sampled_from([1, 3, 4, 31, 32, 36, 68, 100]),
    num_positions=st.sampled_from([1, 2, 35, 1025, 4500]),
    dtype=st.sampled_from(["float16", "float32"]),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
)
def test_a_map_of_any_shape_is_stored_and_summed_up_as_numpy_does(
    num_channels: int, num_positions: int, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = num_channels, num_positions
    computed = rng.normal(rng.normal(0, 20, (num_channels, 1)), 3, shape).astype(np.float32)
    computed[rng.random(shape) < 0.1] *= 1e-6
    computed[rng.random(shape) < 0.1] = 0
    stored, found = cast(computed, dtype)

    expected = computed.astype(dtype)
    np.testing.assert_array_equal(stored.view(np.uint8), expected.T.copy().view(np.uint8))
    exact = expected.astype(np.float64)
    error = exact - computed
    np.testing.assert_allclose(found.mean, exact.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.m2, exact.var(1) * num_positions, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(found.minimum, exact.min(1))
    np.testing.assert_array_equal(found.maximum, exact.max(1))
    np.testing.assert_allclose(found.cast_squared_error, (error**2).sum(), rtol=1e-5)
    assert found.cast_max_error == abs(error).max()


def test_a_mean_far_from_the_values_spread_costs_the_variance_no_digits() -> None:
    rng = np.random.default_rng(0)
    computed = (1000 + 0.01 * rng.standard_normal((4, 5000))).astype(np.float32)
    _, found = cast(computed, "float32")
    np.testing.assert_allclose(found.variance, computed.astype(np.float64).var(1), rtol=1e-4)


@pytest.mark.parametrize("channels_first", [True, False])
def test_maps_are_stored_alike_however_the_backbone_lays_them_out(channels_first: bool) -> None:
    values = torch.randn(8, 5, 7, generator=torch.Generator().manual_seed(0))
    computed = values.permute(1, 2, 0)
    sample = SampleCaster("float16").cast(
        computed if channels_first else computed.contiguous(), level=0
    )
    stored = np.frombuffer(sample.content, dtype=np.float16).reshape(5, 7, 8)
    np.testing.assert_array_equal(stored, computed.half().numpy())


@pytest.mark.parametrize("place", [0, 1500, 4095])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_single_value_that_is_not_finite_is_found_anywhere_in_a_large_map(
    dtype: str, value: float, place: int
) -> None:
    computed = torch.randn(64, 64, 8, generator=torch.Generator().manual_seed(0))
    computed.view(-1, 8)[place, 3] = value
    with pytest.raises(CacheError, match="infinite or NaN features"):
        SampleCaster(dtype).cast(computed, level=0)


def cast_to_bytes(
    computed: NDArray[Any], code: ByteCode
) -> tuple[NDArray[np.uint8], ChannelStatistics]:
    """The bytes of float32 [C, n] as [n, C], and what is told of them."""
    channels, positions = computed.shape
    hwc = torch.from_numpy(computed).reshape(channels, positions, 1).permute(1, 2, 0)
    sample = SampleCaster("uint8", {3: code}).cast(hwc, level=3)
    return np.frombuffer(sample.content, np.uint8).reshape(-1, channels), sample.statistics


@given(
    num_channels=st.sampled_from([1, 3, 33]),
    num_positions=st.sampled_from([1, 2, 1025, 2500]),
    share=st.sampled_from([0.5, 1.0]),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
)
def test_bytes_are_numpy_s_affine_code_and_their_error_at_most_half_a_step_unless_clipped(
    num_channels: int, num_positions: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = num_channels, num_positions
    computed = rng.normal(rng.normal(0, 2, (num_channels, 1)), 3, shape).astype(np.float32)
    code = ByteCode.of_ranges(computed.min(1) * share, computed.max(1) * share)
    stored, found = cast_to_bytes(computed, code)

    steps = np.rint((computed.T - code.offsets) / code.scales)
    np.testing.assert_array_equal(stored, np.clip(steps, 0, 255))
    is_clipped = (steps < 0) | (steps > 255)
    assert found.num_clipped is not None and found.channel_squared_error is not None
    np.testing.assert_array_equal(found.num_clipped, is_clipped.sum(0))
    exact = code.decoded(stored).astype(np.float64)
    error = exact - computed.T
    assert (np.abs(error) <= np.where(is_clipped, np.inf, code.scales / 2 + 1e-5)).all()
    assert share < 1 or not is_clipped.any()
    np.testing.assert_allclose(found.channel_squared_error, (error**2).sum(0), rtol=1e-4)
    np.testing.assert_allclose(found.cast_squared_error, (error**2).sum(), rtol=1e-4)
    assert found.cast_max_error == np.abs(error).max().astype(np.float32)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.m2, exact.var(0) * num_positions, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.minimum, exact.min(0))
    np.testing.assert_array_equal(found.maximum, exact.max(0))


def test_what_is_told_of_bytes_adds_up_over_maps_and_comes_back_from_json() -> None:
    rng = np.random.default_rng(0)
    parts = rng.normal(0, 1, (4, 3, 50)).astype(np.float32)
    code = ByteCode.of_ranges(np.full(3, -1.5), np.full(3, 1.5))
    told = [cast_to_bytes(part, code)[1] for part in parts]
    _, whole = cast_to_bytes(np.concatenate(parts, axis=1), code)
    two_by_two = told[0].merged_with(told[1]).merged_with(told[2].merged_with(told[3]))
    for merged in (ChannelStatistics.merged(told), two_by_two):
        np.testing.assert_array_equal(merged.num_clipped, whole.num_clipped)
        np.testing.assert_allclose(merged.channel_squared_error, whole.channel_squared_error)
        again = ChannelStatistics.from_json(merged.to_json())
        np.testing.assert_array_equal(again.channel_squared_error, merged.channel_squared_error)
        np.testing.assert_array_equal(again.num_clipped, merged.num_clipped)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, "infinite or NaN features") for value in (math.nan, math.inf, -math.inf)),
        (1e30, "does not fit uint8: run with --dtype float32"),
    ],
)
def test_what_bytes_cannot_stand_for_is_refused_and_not_clipped(value: float, reason: str) -> None:
    computed = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(2, -1)
    code = ByteCode.of_ranges(computed.min(1), computed.max(1))
    computed[1, 1500] = value
    with pytest.raises(CacheError, match=reason):
        cast_to_bytes(computed, code)
