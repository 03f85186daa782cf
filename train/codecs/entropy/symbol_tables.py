"""Integer symbols of many channels: count them, fit a table to each channel, code them with rANS.

The coder is that of the learned codecs, so that real rates differ by the models alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import CacheError
from train.codecs.entropy import rans
from train.codecs.layers.compressai_parts import pmf_to_quantized_cdf

_PRECISION_BITS = 16
_MAX_ALPHABET = 1024
_PRIOR_WEIGHT = 16.0  # values; a table of few training values leans on the Laplace shape
_MAX_COUNTED = 2**14
MAX_SYMBOL = rans.MAX_SYMBOL
"""Largest magnitude of a symbol."""


class SymbolCounts:
    """How often each symbol occurs in each channel; grows with what it is shown."""

    def __init__(self, num_channels: int) -> None:
        self.low = 0
        """The symbol that the first column counts."""
        self.counts: NDArray[Any] = np.zeros((num_channels, 1), dtype=np.int64)

    def add(self, symbols: NDArray[Any]) -> None:
        """Count `symbols`, int [C, n]; beyond +-16384 they count as that."""
        symbols = np.clip(symbols, -_MAX_COUNTED, _MAX_COUNTED)
        self._make_room(int(symbols.min()), int(symbols.max()))
        num_channels, width = self.counts.shape
        rows = np.arange(num_channels, dtype=np.int64)[:, None] * width - self.low
        places = (symbols + rows).reshape(-1)
        self.counts += np.bincount(places, minlength=self.counts.size).reshape(self.counts.shape)

    @property
    def entropy_bits(self) -> float:
        """Bits of all counted symbols under each channel's own frequencies (zeroth order)."""
        counted = self.counts[self.counts > 0].astype(np.float64)
        totals = self.counts.sum(axis=1).astype(np.float64)
        totals = totals[totals > 0]
        return float((totals * np.log2(totals)).sum() - (counted * np.log2(counted)).sum())

    def _make_room(self, lowest: int, highest: int) -> None:
        before = max(0, self.low - lowest)
        after = max(0, highest - (self.low + self.counts.shape[1] - 1))
        self.counts = np.pad(self.counts, ((0, 0), (before, after)))
        self.low -= before


@dataclass(frozen=True, kw_only=True)
class SymbolTables:
    """A cumulative frequency table for each channel, of 16 bits, the last entry for escapes."""

    low: NDArray[Any]
    """First symbol that has an entry, int32 [C]."""
    lengths: NDArray[Any]
    """Entries of each channel's table, int32 [C]."""
    cdfs: NDArray[Any]
    """All tables, one after the other, int32 [lengths.sum()]."""

    def encode(self, symbols: NDArray[Any]) -> bytes:
        """Return the rANS bytes of `symbols`, int32 [C, n], of at most MAX_SYMBOL each."""
        flat = np.ascontiguousarray(symbols, dtype=np.int32).reshape(-1)
        return rans.encode(flat, _indexes(*symbols.shape), self._arrays)

    def decode(self, payload: bytes, num_values: int) -> NDArray[Any]:
        """Return the int32 [C, num_values] that `encode` was given.

        Raises CacheError for bytes that `encode` does not return.
        """
        return self.decode_first(payload, len(self.low), num_values)

    def decode_first(self, payload: bytes, num_channels: int, num_values: int) -> NDArray[Any]:
        """As `decode`, where `encode` was given the first channels only."""
        decoder = rans.Decoder(payload)
        try:
            symbols = decoder.next(_indexes(num_channels, num_values), self._arrays)
            decoder.finish()
        except ValueError as error:
            raise CacheError(
                f"the payload is damaged ({error}): compress the features again"
            ) from error
        return symbols.reshape(num_channels, num_values)

    @cached_property
    def _arrays(self) -> rans.Arrays:
        starts = np.cumsum(self.lengths, dtype=np.int32) - self.lengths
        return self.cdfs, starts, self.lengths, self.low


def _indexes(num_channels: int, num_values: int) -> NDArray[Any]:
    """Return each symbol's table, channel after channel."""
    return np.repeat(np.arange(num_channels, dtype=np.int32), num_values)


def fit_tables(counted: SymbolCounts) -> SymbolTables:
    """Return the tables that fit what was counted, which must be at least one symbol a channel.

    A channel's probabilities are its frequencies, smoothed by a few values' worth of the discrete
    Laplace distribution that fits it, so that what training did not show stays affordable.
    """
    fitted = [_fit_channel(row, counted.low) for row in counted.counts]
    return SymbolTables(
        low=np.array([low for low, _ in fitted], dtype=np.int32),
        lengths=np.array([len(cdf) for _, cdf in fitted], dtype=np.int32),
        cdfs=np.concatenate([cdf for _, cdf in fitted]).astype(np.int32),
    )


def _fit_channel(counts: NDArray[Any], counts_low: int) -> tuple[int, NDArray[Any]]:
    """Return the first symbol of a channel's table, and the table with the escape's entry."""
    seen = np.flatnonzero(counts)
    total = int(counts.sum())
    median = int(np.searchsorted(np.cumsum(counts), (total + 1) // 2))
    first = max(int(seen[0]) - 1, median - _MAX_ALPHABET // 2)
    last = min(int(seen[-1]) + 1, median + _MAX_ALPHABET // 2 - 2)
    places = np.arange(first, last + 1)
    inside = np.zeros(len(places))
    within = (places >= 0) & (places < len(counts))
    inside[within] = counts[places[within]]
    laplace = _discrete_laplace(np.abs(places - median), _mean_deviation(counts, median))
    probabilities = (inside + _PRIOR_WEIGHT * laplace) / (total + _PRIOR_WEIGHT)
    escape = max(0.0, 1.0 - float(probabilities.sum()))
    cdf = pmf_to_quantized_cdf([*probabilities.tolist(), escape], _PRECISION_BITS)
    return counts_low + first, np.array(cdf)


def _mean_deviation(counts: NDArray[Any], median: int) -> float:
    """Return the mean distance from the median; one value more, at distance 1, keeps it above 0."""
    distances = np.abs(np.arange(len(counts)) - median)
    return (float(counts @ distances) + 1) / (float(counts.sum()) + 1)


def _discrete_laplace(distances: NDArray[Any], mean_deviation: float) -> NDArray[Any]:
    """Return P(k) = (1 - r) / (1 + r) r^|k|, with E|k| = 2 r / (1 - r^2) the mean deviation."""
    ratio = (np.sqrt(1 + mean_deviation**2) - 1) / mean_deviation
    probabilities: NDArray[Any] = (1 - ratio) / (1 + ratio) * ratio**distances
    return probabilities
