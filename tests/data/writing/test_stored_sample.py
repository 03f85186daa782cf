"""A map as it is stored: its casts to the last bit, its sums against float64's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import CacheError
from data.cache.channel_statistics import ChannelStatistics
from data.coding.byte_code import ByteCode
from data.writing import stored_sample as module
from data.writing.stored_sample import STORED_DTYPES, SampleCaster, StoredMap, stored_maps
from tests.support.devices import DEVICES

SPECIAL = [
    *(sign * value for sign in (1.0, -1.0) for value in (
        0.0, 2.0**-149, 2.0**-126, 2.0**-26, 2.0**-25, 1.0000001 * 2.0**-25, 2.0**-24,
        1.5 * 2.0**-24, 2.5 * 2.0**-24, 2.0**-14, (1 - 2.0**-12) * 2.0**-14, 1 + 2.0**-11,
        1 + 3 * 2.0**-11, 1 + 2.0**-11 + 2.0**-23, 2049.0, 2051.0, 65503.0, 65504.0, 65519.99,
    )),
]  # fmt: skip


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


def stored(features: Tensor, dtype: str, device: str) -> list[StoredMap]:
    values, sums = stored_maps(features.to(device), STORED_DTYPES[dtype])
    return [
        StoredMap(values=each.cpu(), sums=its.cpu().numpy(), summed_on=device)
        for each, its in zip(values, sums, strict=True)
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@given(
    shape=st.tuples(*(st.integers(1, most) for most in (3, 9, 5, 7))),
    special=st.lists(st.sampled_from(SPECIAL) | st.floats(-65519, 65519, width=32), max_size=20),
    is_channels_last=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_maps_of_any_values_get_the_cpus_bytes_and_sums(
    device: str, dtype: str, shape: tuple[int, int, int, int], special: list[float],
    is_channels_last: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    computed = rng.normal(3, 20, shape).astype(np.float32)
    places = rng.integers(computed.size, size=len(special))
    computed.reshape(-1)[places] = special
    features = torch.from_numpy(computed)
    if is_channels_last:
        features = features.to(memory_format=torch.channels_last)
    caster = SampleCaster(dtype)
    for found, image in zip(stored(features, dtype, device), features, strict=True):
        ours, expected = found.sample(0), caster.cast(image.permute(1, 2, 0), 0)
        assert bytes(ours.content) == bytes(expected.content)
        assert ours.checksum == expected.checksum
        exact = np.frombuffer(ours.content, dtype).astype(np.float64).reshape(-1, shape[1])
        error = exact - image.permute(1, 2, 0).reshape(-1, shape[1]).numpy()
        sums = ours.statistics
        np.testing.assert_allclose(sums.mean, exact.mean(0), rtol=1e-13, atol=1e-11)
        np.testing.assert_allclose(sums.m2, exact.var(0) * len(exact), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(sums.cast_squared_error, (error**2).sum(), rtol=1e-12)
        # The CPU's way adds pieces up as float32.
        scale = abs(exact).max() + 1e-30
        np.testing.assert_allclose(
            sums.mean, expected.statistics.mean, rtol=1e-5, atol=1e-6 * scale
        )
        np.testing.assert_array_equal(sums.minimum, expected.statistics.minimum)
        np.testing.assert_array_equal(sums.maximum, expected.statistics.maximum)
        assert sums.cast_max_error == expected.statistics.cast_max_error
        assert sums.count == expected.statistics.count and sums.summed_on == device


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        *((value, dtype, "level 3: the detector computed infinite or NaN features")
          for value in (float("nan"), float("inf"), -float("inf"))
          for dtype in ("float16", "float32")),
        (65520.0, "float16", r"level 3: a feature of magnitude 6.552e\+04 does not fit float16"),
        (-1e30, "float16", r"magnitude 1e\+30 does not fit float16: run with --dtype float32"),
    ],
)  # fmt: skip
def test_one_value_that_cannot_be_stored_refuses_its_map_and_no_other(
    device: str, value: float, dtype: str, reason: str
) -> None:
    features = torch.randn(3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    features[1, 5, 15, 3] = value
    before, bad, after = stored(features, dtype, device)
    before.sample(3), after.sample(3)
    with pytest.raises(CacheError, match=reason):
        bad.sample(3)


def test_maps_that_are_summed_up_in_turns_are_as_those_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    values, sums = stored_maps(features, torch.float16)
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", 300)
    in_turns, their_sums = stored_maps(features, torch.float16)
    assert torch.equal(in_turns, values)
    torch.testing.assert_close(their_sums, sums, rtol=1e-14, atol=1e-14)


def test_statistics_say_where_they_were_summed_up_only_if_that_was_not_a_cpu() -> None:
    features = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    on_cpu = SampleCaster("float16").cast(features[0].permute(1, 2, 0), 0).statistics
    on_gpu = stored(features[:1], "float16", "cpu")[0]
    values = {"values": on_gpu.values, "sums": on_gpu.sums}
    gpu = StoredMap(**values, summed_on="cuda").sample(0).statistics
    assert "summed_on" not in on_cpu.to_json()
    assert ChannelStatistics.from_json(on_cpu.to_json()).summed_on == "cpu"
    assert ChannelStatistics.from_json(gpu.to_json()).summed_on == "cuda"
    assert gpu.merged_with(gpu).summed_on == "cuda"
    both = on_cpu.merged_with(gpu)
    assert both.summed_on == ChannelStatistics.merged([gpu, both, on_cpu]).summed_on == "cpu+cuda"
