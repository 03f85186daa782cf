"""Anchor: Karhunen-Loève transform over the channels, one quantiser step, entropy-coded.

One step for all components is reverse water-filling (Cover and Thomas, 2nd edition, section 10.3.3)
at rates where the quantisation noise is uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from analyze.covariance import ChannelCovariance, covariance_of
from analyze.symbol_coding import MAX_SYMBOL, SymbolCounts, SymbolTables, fit_tables
from data.reader import LevelReader


@dataclass(frozen=True, kw_only=True, slots=True)
class KltCodec:
    """The train split's principal axes, and rounding to multiples of one step, no dead zone."""

    kind: ClassVar[str] = "klt"

    relative_step: float
    """The step in units of the level's root mean channel variance, for names only."""
    step: float
    mean: NDArray[Any]
    """float64 [C]."""
    axes: NDArray[Any]
    """float64 [C, C], columns are components."""
    tables: SymbolTables

    @property
    def point(self) -> str:
        """The rate point in words."""
        return f"step {self.relative_step:g} std"

    def symbols(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return int32 [C, H * W], component by component, for a map float32 [H, W, C]."""
        return quantise(coefficients(values, self.mean, self.axes), self.step)

    def encode(self, values: NDArray[Any]) -> bytes:
        """Return the rANS bytes of one map, float32 [H, W, C]."""
        return self.tables.encode(self.symbols(values))

    def decode(self, payload: bytes, size_hw: tuple[int, int]) -> NDArray[Any]:
        """Return float32 [H, W, C], each coefficient within step / 2 of what was encoded."""
        height, width = size_hw
        symbols = self.tables.decode(payload, height * width)
        restored: NDArray[Any] = (symbols.T * self.step) @ self.axes.T + self.mean
        return restored.astype(np.float32).reshape(height, width, -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class KltAnchor:
    """One codec for each step; steps are in units of the level's root mean channel variance."""

    relative_steps: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

    @property
    def name(self) -> str:
        """What tables call it."""
        return "KLT over channels"

    def unavailable(self) -> str | None:
        """Return None: it needs nothing."""
        return None

    def fit(self, reader: LevelReader, indices: Sequence[int]) -> tuple[KltCodec, ...]:
        """Fit axes, then tables for each step, to the samples `indices`, in two passes.

        Raises CacheError if a sample is damaged.
        """
        statistics = _covariance(reader, indices)
        axes = statistics.principal_axes()
        # A level without any variance is coded by its mean alone, whatever the step.
        scale = float(np.sqrt(statistics.mean_variance)) or 1.0
        steps = {relative: relative * scale for relative in self.relative_steps}
        counted = {relative: SymbolCounts(len(axes)) for relative in self.relative_steps}
        for index in indices:
            projected = coefficients(reader.sample(index), statistics.mean, axes)
            for relative, step in steps.items():
                counted[relative].add(quantise(projected, step))
        return tuple(
            KltCodec(
                relative_step=relative,
                step=step,
                mean=statistics.mean,
                axes=axes,
                tables=fit_tables(counted[relative]),
            )
            for relative, step in steps.items()
        )


def coefficients(values: NDArray[Any], mean: NDArray[Any], axes: NDArray[Any]) -> NDArray[Any]:
    """Return float64 [C, H * W], component by component, for a map float [H, W, C]."""
    centred = values.reshape(-1, values.shape[-1]).astype(np.float64) - mean
    projected: NDArray[Any] = axes.T @ centred.T
    return projected


def quantise(projected: NDArray[Any], step: float) -> NDArray[Any]:
    """Return the nearest multiples of `step`, int32 of the same shape."""
    multiples: NDArray[Any] = np.clip(np.rint(projected / step), -MAX_SYMBOL, MAX_SYMBOL)
    return multiples.astype(np.int32)


def _covariance(reader: LevelReader, indices: Sequence[int]) -> ChannelCovariance:
    parts = (covariance_of(reader.sample(index)) for index in indices)
    return reduce(ChannelCovariance.merged_with, parts)
