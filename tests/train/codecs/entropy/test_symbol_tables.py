"""Symbols come back from their bytes, at little more than their entropy; covariances merge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from analyze.anchors.klt import covariance_of
from train.codecs.entropy.symbol_tables import MAX_SYMBOL, SymbolCounts, SymbolTables, fit_tables


def counted(*parts: NDArray[Any]) -> SymbolCounts:
    counts = SymbolCounts(len(parts[0]))
    for part in parts:
        counts.add(part)
    return counts


def laplacian(num_channels: int = 4, num_values: int = 20_000) -> NDArray[Any]:
    rng = np.random.default_rng(3)
    scales = np.geomspace(0.1, 30, num_channels)[:, None]
    return np.rint(rng.laplace(size=(num_channels, num_values)) * scales).astype(np.int32)


def test_counts_grow_to_both_sides_and_keep_what_was_counted() -> None:
    counts = counted(np.array([[0, 1], [5, 5]]), np.array([[-3, 1], [5, 6]]))
    assert counts.low == -3
    expected = np.zeros((2, 10), dtype=np.int64)
    expected[0, [0, 3, 4]] = 1, 1, 2
    expected[1, [8, 9]] = 3, 1
    np.testing.assert_array_equal(counts.counts, expected)


def test_entropy_is_that_of_each_channel_by_itself() -> None:
    # One channel of two equally frequent symbols (1 bit each), one that never varies (0 bits).
    assert counted(np.array([[0, 9, 0, 9], [7, 7, 7, 7]])).entropy_bits == pytest.approx(4)


def test_real_bytes_are_within_one_percent_of_the_entropy() -> None:
    symbols = laplacian()
    counts = counted(symbols)
    real_bits = len(fit_tables(counts).encode(symbols)) * 8
    assert counts.entropy_bits <= real_bits <= 1.01 * counts.entropy_bits


@given(
    shown=arrays(np.int32, (3, 5), elements=st.integers(-40, 40)),
    sent=arrays(np.int32, (3, 7), elements=st.integers(-MAX_SYMBOL, MAX_SYMBOL)),
)
@settings(max_examples=200)
def test_symbols_come_back_whatever_the_tables_were_fitted_to(
    shown: NDArray[Any], sent: NDArray[Any]
) -> None:
    tables = fit_tables(counted(shown))
    np.testing.assert_array_equal(tables.decode(tables.encode(sent), 7), sent)


def test_symbols_come_back_from_a_channel_wider_than_its_table() -> None:
    symbols = np.arange(-3000, 3000, dtype=np.int32)[None]
    tables = fit_tables(counted(symbols))
    assert tables.lengths.max() <= 1026
    np.testing.assert_array_equal(tables.decode(tables.encode(symbols), 6000), symbols)


def test_channel_that_never_varies_costs_next_to_nothing() -> None:
    symbols = np.full((1, 100_000), 4, dtype=np.int32)
    assert len(fit_tables(counted(symbols)).encode(symbols)) < 20


def test_no_symbols_are_one_byte() -> None:
    tables = fit_tables(counted(laplacian()))
    nothing = np.zeros((0, 7), dtype=np.int32)
    assert len(tables.encode(nothing)) == 1
    np.testing.assert_array_equal(tables.decode_first(tables.encode(nothing), 0, 7), nothing)


def test_first_channels_come_back_by_themselves() -> None:
    symbols = laplacian()
    tables = fit_tables(counted(symbols))
    payload = tables.encode(symbols[:2])
    np.testing.assert_array_equal(tables.decode_first(payload, 2, symbols.shape[1]), symbols[:2])


def test_each_table_ends_at_the_full_range_and_never_falls() -> None:
    tables: SymbolTables = fit_tables(counted(laplacian()))
    for cdf in np.split(tables.cdfs, np.cumsum(tables.lengths)[:-1]):
        assert cdf[0] == 0
        assert cdf[-1] == 2**16
        assert (np.diff(cdf) > 0).all()


def test_merged_covariance_is_that_of_all_positions() -> None:
    rng = np.random.default_rng(5)
    mixing = rng.normal(size=(6, 6))
    maps = [rng.normal(3, 2, size=(h, w, 6)) @ mixing for h, w in ((4, 5), (1, 1), (7, 3))]
    first, second, third = (covariance_of(each) for each in maps)
    positions = np.concatenate([each.reshape(-1, 6) for each in maps])
    for merged in (
        first.merged_with(second).merged_with(third),
        third.merged_with(first.merged_with(second)),
    ):
        assert merged.count == 42
        np.testing.assert_allclose(merged.mean, positions.mean(axis=0))
        np.testing.assert_allclose(merged.scatter / 42, np.cov(positions.T, bias=True))
        assert merged.mean_variance == pytest.approx(positions.var(axis=0).mean())


def test_axes_are_orthonormal_and_ordered_by_variance() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(size=(20, 20, 5)) * [1, 5, 3, 0.1, 2]
    axes = covariance_of(values).principal_axes()
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-12)
    variances = (values.reshape(-1, 5) @ axes).var(axis=0)
    assert (np.diff(variances) < 0).all()
