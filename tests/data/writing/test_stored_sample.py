"""The pass that stores a map: its casts to the last bit, its sums against float64's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from configs.errors import CacheError
from data.system.compiled_loops import LANES
from data.writing.cast_kernel import store_map
from data.writing.cast_vectors import rounding, to_half, to_half_by_bits
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


def loop_with(way: Any) -> Any:
    rounded = rounding(way)
    return njit(
        lambda source, halves: rounded(source, 0, len(source) // LANES, halves, 0, np.float32(0), 0)
    )


LOOPS = {way: loop_with(way) for way in (to_half, to_half_by_bits)}


def rounded_with(way: Any, values: NDArray[Any]) -> tuple[NDArray[Any], list[float]]:
    """The float16 that a way of rounding gives for each value, and what it sums up of them."""
    source = np.resize(values, -(-len(values) // LANES) * LANES)
    halves = np.empty(len(source), np.uint16)
    sums = LOOPS[way](source, halves)
    return halves[: len(values)].view(np.float16), list(sums)


@pytest.mark.parametrize("way", LOOPS)
def test_every_float16_its_neighbours_and_ties_are_cast_as_numpy_casts_them(way: Any) -> None:
    values = halves_and_their_neighbours()
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(
        rounded_with(way, values)[0].view(np.uint16), expected.view(np.uint16)
    )


@pytest.mark.parametrize("way", LOOPS)
@pytest.mark.parametrize("exponent", range(-30, 16))
def test_what_is_summed_up_are_the_values_that_are_stored(way: Any, exponent: int) -> None:
    rng = np.random.default_rng(exponent + 30)
    values = (rng.uniform(-1, 1, 4 * LANES) * 2.0**exponent).astype(np.float32)
    halves, (total, squared, squared_error, largest_error, low, high) = rounded_with(way, values)
    stored = halves.astype(np.float64)
    error = stored - values
    np.testing.assert_allclose(total, stored.sum(), rtol=1e-5, atol=1e-6 * abs(stored).max())
    np.testing.assert_allclose(squared, (stored**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(squared_error, (error**2).sum(), rtol=1e-5)
    assert largest_error == abs(error).max()
    assert (low, high) == (stored.min(), stored.max())


@pytest.mark.parametrize("way", LOOPS)
@pytest.mark.parametrize(
    "value",
    [
        np.nan, -np.nan, np.inf, -np.inf, 65520, -1e30,
        *np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32),  # other NaNs
    ],
)  # fmt: skip
def test_what_is_not_finite_shows_in_the_sum(way: Any, value: float) -> None:
    values = np.linspace(-1, 1, 4 * LANES, dtype=np.float32)
    values[37] = value
    halves, sums = rounded_with(way, values)
    assert not np.isfinite(halves[37])
    assert not np.isfinite(sums[0])


@given(
    num_channels=st.sampled_from([1, 3, 4, 31, 32, 36, 68]),
    num_positions=st.sampled_from([1, 2, 35, 1023, 1024, 1025, 2100]),
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
    stored = np.empty(shape[::-1], dtype=dtype)
    mean, m2, minimum, maximum, squared, largest = store_map(computed, stored)

    expected = computed.astype(dtype)
    np.testing.assert_array_equal(stored.view(np.uint8), expected.T.copy().view(np.uint8))
    exact = expected.astype(np.float64)
    error = exact - computed
    np.testing.assert_allclose(mean, exact.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(m2, exact.var(1) * num_positions, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(minimum, exact.min(1))
    np.testing.assert_array_equal(maximum, exact.max(1))
    np.testing.assert_allclose(squared, (error**2).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(largest, abs(error).max(1))


def test_a_mean_far_from_the_values_spread_costs_the_variance_no_digits() -> None:
    rng = np.random.default_rng(0)
    computed = (1000 + 0.01 * rng.standard_normal((4, 5000))).astype(np.float32)
    _, m2, *_ = store_map(computed, np.empty((5000, 4), np.float32))
    np.testing.assert_allclose(m2 / 5000, computed.astype(np.float64).var(1), rtol=1e-4)


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
