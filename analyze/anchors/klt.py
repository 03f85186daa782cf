"""Anchor: Karhunen-Loève transform over the channels, one quantiser step, entropy-coded.

One step for all components is reverse water-filling (Cover and Thomas, 2nd edition, section 10.3.3)
at rates where the quantisation noise is uniform.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from configs.errors import CacheError
from data.reading.level_reader import LevelReader
from train.codecs.entropy.symbol_tables import MAX_SYMBOL, SymbolCounts, SymbolTables, fit_tables


def product(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Return `one @ other` [m, n] of matrices of one dtype, float32 or float64.

    NumPy's BLAS has threads of its own, whatever torch is told: beside an image on every core they
    wait busily. And it does not know every processor, and then takes its oldest instructions.
    """
    result: NDArray[Any] = torch.mm(torch.from_numpy(one), torch.from_numpy(other)).numpy()
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelCovariance:
    """Of `count` positions with C channels each; all arrays are float64."""

    count: int
    mean: NDArray[Any]
    """[C]."""
    scatter: NDArray[Any]
    """Sum of outer products of the differences from the mean, [C, C]."""

    @property
    def mean_variance(self) -> float:
        """Mean of the channels' population variances."""
        return float(np.trace(self.scatter)) / (self.count * len(self.mean))

    def merged_with(self, other: ChannelCovariance) -> ChannelCovariance:
        """Combine two disjoint parts (Chan, Golub and LeVeque 1979, equation 2.1, for matrices)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return ChannelCovariance(
            count=count,
            mean=self.mean + delta * (other.count / count),
            scatter=self.scatter
            + other.scatter
            + np.outer(delta, delta) * (self.count * other.count / count),
        )

    def principal_axes(self) -> NDArray[Any]:
        """Return the eigenvectors as columns, float64 [C, C], largest variance first."""
        _, axes = np.linalg.eigh(self.scatter)
        return np.ascontiguousarray(axes[:, ::-1])


def covariance_of(values: NDArray[Any]) -> ChannelCovariance:
    """Return the covariance of one map, float [H, W, C]."""
    positions = values.reshape(-1, values.shape[-1]).astype(np.float64)
    mean = positions.mean(axis=0)
    positions -= mean
    return ChannelCovariance(
        count=len(positions), mean=mean, scatter=product(positions.T, positions)
    )


_NUM_SENT = struct.Struct("<H")


@dataclass(frozen=True, kw_only=True, slots=True)
class KltCodec:
    """The train split's principal axes, and rounding to multiples of one step, no dead zone.

    Components after a map's last one that is not zero everywhere are not sent.
    """

    kind: ClassVar[str] = "klt"

    relative_step: float
    """The step in units of the level's root mean channel variance, for names only."""
    step: float
    mean: NDArray[Any]
    """float32 [C]."""
    axes: NDArray[Any]
    """float32 [C, C], columns are components, largest variance first."""
    tables: SymbolTables

    @property
    def point(self) -> str:
        """The rate point in words."""
        return f"step {self.relative_step:g} std"

    def symbols(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return int32 [C, H * W], component by component, for a map float32 [H, W, C]."""
        return quantise(coefficients(values, self.mean, self.axes), self.step)

    def encode(self, values: NDArray[Any]) -> bytes:
        """Return how many components are sent, and their rANS bytes, of a map float32 [H, W, C]."""
        return self.encode_symbols(self.symbols(values))

    def encode_symbols(self, symbols: NDArray[Any]) -> bytes:
        """Return the same of a map with these symbols, int32 [C, H * W]."""
        num_sent = int(symbols.any(axis=1).nonzero()[0].max(initial=-1)) + 1
        return _NUM_SENT.pack(num_sent) + self.tables.encode(symbols[:num_sent])

    def decode(self, payload: bytes, size_hw: tuple[int, int]) -> NDArray[Any]:
        """Return float32 [H, W, C], each coefficient within step / 2 of what was encoded.

        Raises CacheError if the payload is too short or of another codec.
        """
        height, width = size_hw
        num_sent = _NUM_SENT.unpack_from(payload)[0] if len(payload) >= _NUM_SENT.size else None
        if num_sent is None or num_sent > len(self.mean):
            raise CacheError("KLT coefficients are damaged: compress the features again")
        symbols = self.tables.decode_first(payload[_NUM_SENT.size :], num_sent, height * width)
        scaled = symbols.T.astype(np.float32) * np.float32(self.step)
        restored: NDArray[Any] = product(scaled, self.axes[:, :num_sent].T) + self.mean
        return restored.reshape(height, width, -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class KltAnchor:
    """One codec for each step; steps are in units of the level's root mean channel variance."""

    relative_steps: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0, 8.0, 16.0)

    @property
    def name(self) -> str:
        """What tables call it."""
        return "KLT over channels"

    @property
    def points(self) -> tuple[dict[str, Any], ...]:
        """Each rate point's settings."""
        return tuple({"relative_step": step} for step in self.relative_steps)

    def unavailable(self) -> str | None:
        """Return None: it needs nothing."""
        return None

    def fit(self, reader: LevelReader, indices: Sequence[int]) -> tuple[KltCodec, ...]:
        """Fit axes, then tables for each step, to the samples `indices`, in two passes.

        Raises CacheError if a sample is damaged.
        """
        statistics = _covariance(reader, indices)
        mean, axes = (
            part.astype(np.float32) for part in (statistics.mean, statistics.principal_axes())
        )
        # A level without any variance is coded by its mean alone, whatever the step.
        scale = float(np.sqrt(statistics.mean_variance)) or 1.0
        steps = {relative: relative * scale for relative in self.relative_steps}
        counted = {relative: SymbolCounts(len(axes)) for relative in self.relative_steps}
        for index in indices:
            projected = coefficients(reader.sample(index), mean, axes)
            for relative, step in steps.items():
                counted[relative].add(quantise(projected, step))
        return tuple(
            KltCodec(
                relative_step=relative,
                step=step,
                mean=mean,
                axes=axes,
                tables=fit_tables(counted[relative]),
            )
            for relative, step in steps.items()
        )


def coefficients(values: NDArray[Any], mean: NDArray[Any], axes: NDArray[Any]) -> NDArray[Any]:
    """Return [C, H * W] of the axes' dtype, component by component, for a map float [H, W, C]."""
    centred = values.reshape(-1, values.shape[-1]).astype(axes.dtype) - mean
    return product(axes.T, centred.T)


def quantise(projected: NDArray[Any], step: float) -> NDArray[Any]:
    """Return the nearest multiples of `step`, int32 of the same shape."""
    multiples: NDArray[Any] = projected / projected.dtype.type(step)
    np.rint(multiples, out=multiples)
    np.clip(multiples, -MAX_SYMBOL, MAX_SYMBOL, out=multiples)
    return multiples.astype(np.int32)


def _covariance(reader: LevelReader, indices: Sequence[int]) -> ChannelCovariance:
    parts = (covariance_of(reader.sample(index)) for index in indices)
    return reduce(ChannelCovariance.merged_with, parts)
