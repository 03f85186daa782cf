"""Maps that are cast and summed up where they are: the bytes and sums of the CPU's way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from configs.errors import CacheError
from data.cache.channel_statistics import ChannelStatistics
from data.writing import stored_maps as module
from data.writing.stored_maps import STORED_DTYPES, StoredMap, stored_maps
from data.writing.stored_sample import SampleCaster
from tests.support.devices import DEVICES

SPECIAL = [
    *(sign * value for sign in (1.0, -1.0) for value in (
        0.0, 2.0**-149, 2.0**-126, 2.0**-26, 2.0**-25, 1.0000001 * 2.0**-25, 2.0**-24,
        1.5 * 2.0**-24, 2.5 * 2.0**-24, 2.0**-14, (1 - 2.0**-12) * 2.0**-14, 1 + 2.0**-11,
        1 + 3 * 2.0**-11, 1 + 2.0**-11 + 2.0**-23, 2049.0, 2051.0, 65503.0, 65504.0, 65519.99,
    )),
]  # fmt: skip


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
