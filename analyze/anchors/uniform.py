"""Anchor: uniform quantisation of each channel to n bits, entropy-coded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data.reading.level_reader import LevelReader
from train.codecs.entropy.symbol_tables import SymbolCounts, SymbolTables, fit_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformCodec:
    """2^bits equal steps between a channel's extremes in the train split; beyond them it clips."""

    kind: ClassVar[str] = "uniform"

    bits: int
    minimum: NDArray[Any]
    """float32 [C]."""
    step: NDArray[Any]
    """float32 [C]; 0 for a channel that never varies."""
    tables: SymbolTables

    @property
    def point(self) -> str:
        """The rate point in words."""
        return f"{self.bits} bits"

    def symbols(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return int32 [C, H * W], 0 to 2^bits - 1, for a map float32 [H, W, C]."""
        return quantise(values, self.minimum, self.step, self.bits)

    def encode(self, values: NDArray[Any]) -> bytes:
        """Return the rANS bytes of one map, float32 [H, W, C]."""
        return self.encode_symbols(self.symbols(values))

    def encode_symbols(self, symbols: NDArray[Any]) -> bytes:
        """Return the same of a map with these symbols, int32 [C, H * W]."""
        return self.tables.encode(symbols)

    def decode(self, payload: bytes, size_hw: tuple[int, int]) -> NDArray[Any]:
        """Return float32 [H, W, C], within step / 2 of what was encoded where that did not clip."""
        height, width = size_hw
        symbols = self.tables.decode(payload, height * width)
        values = symbols.astype(np.float32).T * self.step + self.minimum
        return np.ascontiguousarray(values.reshape(height, width, -1))


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformAnchor:
    """One codec for each number of bits."""

    bits: tuple[int, ...] = (2, 3, 4, 6)

    @property
    def name(self) -> str:
        """What tables call it."""
        return "uniform per channel"

    @property
    def points(self) -> tuple[dict[str, Any], ...]:
        """Each rate point's settings."""
        return tuple({"bits": bits} for bits in self.bits)

    def unavailable(self) -> str | None:
        """Return None: it needs nothing."""
        return None

    def fit(self, reader: LevelReader, indices: Sequence[int]) -> tuple[UniformCodec, ...]:
        """Take each channel's extremes in the whole split, and tables from the samples `indices`.

        Raises CacheError if a sample is damaged.
        """
        minimum = reader.statistics.minimum.astype(np.float32)
        extent = (reader.statistics.maximum - reader.statistics.minimum).astype(np.float32)
        steps = {bits: extent / np.float32(2**bits - 1) for bits in self.bits}
        counted = {bits: SymbolCounts(len(minimum)) for bits in self.bits}
        for index in indices:
            values = np.array(reader.sample(index), dtype=np.float32)
            for bits in self.bits:
                counted[bits].add(quantise(values, minimum, steps[bits], bits))
        return tuple(
            UniformCodec(
                bits=bits, minimum=minimum, step=steps[bits], tables=fit_tables(counted[bits])
            )
            for bits in self.bits
        )


def quantise(
    values: NDArray[Any], minimum: NDArray[Any], step: NDArray[Any], bits: int
) -> NDArray[Any]:
    """Return the nearest of 2^bits steps, int32 [C, H * W], for a map float32 [H, W, C]."""
    # A channel that never varies has step 0: all its values are step number 0.
    places = (values.reshape(-1, values.shape[-1]) - minimum) / np.where(step > 0, step, np.inf)
    rounded = np.clip(np.rint(places), 0, 2**bits - 1).astype(np.int32)
    return np.ascontiguousarray(rounded.T)
