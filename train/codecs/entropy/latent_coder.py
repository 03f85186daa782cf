"""Symbols to bytes and back: our range coder (rANS) with the tables of CompressAI's models.

Encoder and decoder each make the tables from the weights. A count that differs by one between the
two ends in garbage, and float32 arithmetic does differ: between a GPU and a CPU, two kinds of
processor, two versions of PyTorch. So tables are computed on the CPU in float64, whose last digits
(1e-16) hardly ever change a count of 2**-16, and quantiles are rounded to multiples of 2**-10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.errors import CacheError, ConfigError
from train.codecs.entropy import rans
from train.codecs.layers.compressai_parts import (
    EntropyBottleneck,
    EntropyModel,
    GaussianConditional,
    pmf_to_quantized_cdf,
)

_QUANTILE_STEP = 2.0**-10
_FARTHEST = 1e5  # where CompressAI looks for quantiles too
_BISECTIONS = 64
_SCALES = (0.11, 256.0, 64)
"""Least and greatest standard deviation, and their number, as in CompressAI's models."""


@dataclass(frozen=True, slots=True)
class CodingTables:
    """One cumulative distribution for each index, as `rans` takes them: int32, flat."""

    arrays: rans.Arrays

    @classmethod
    def of(cls, probabilities: Sequence[Sequence[float]], first: Sequence[int]) -> CodingTables:
        """Return the tables of probabilities[i][k], those of the symbol first[i] + k.

        What they lack to 1 is the escape's, by which all other symbols are coded.
        """
        cdfs = [
            np.array(
                pmf_to_quantized_cdf([*each, max(0.0, 1.0 - math.fsum(each))], rans.PRECISION_BITS)
            )
            for each in probabilities
        ]
        return cls._joined(cdfs, np.asarray(first))

    @classmethod
    def _joined(cls, cdfs: Sequence[NDArray[Any]], first: NDArray[Any]) -> CodingTables:
        lengths = np.array([len(cdf) for cdf in cdfs], dtype=np.int32)
        starts = np.cumsum(lengths, dtype=np.int32) - lengths
        arrays = np.concatenate(cdfs).astype(np.int32), starts, lengths, first.astype(np.int32)
        return cls(arrays)


def brings_tables(model: Any) -> bool:
    """Whether a module is an entropy model that `coding_tables` knows how to ask.

    Raises ConfigError for an entropy model of CompressAI's that it does not.
    """
    if type(model) in (EntropyBottleneck, GaussianConditional) or hasattr(model, "coding_tables"):
        return True
    if isinstance(model, EntropyModel):
        # A class derived from those two has other densities, and tables of theirs would not fit.
        raise ConfigError(
            f"{type(model).__module__}.{type(model).__name__}: an entropy model without tables to "
            "code with: give it a method coding_tables() that returns the CodingTables of its "
            "weights (train.codecs.entropy.latent_coder)"
        )
    return False


def coding_tables(model: Any) -> CodingTables | None:
    """Make the tables of an entropy model from its weights; None for any other module.

    An EntropyBottleneck gets the quantiles of its densities too. Raises ConfigError as above.
    """
    if not brings_tables(model):
        return None
    if hasattr(model, "coding_tables"):
        tables: CodingTables = model.coding_tables()
        return tables
    if isinstance(model, EntropyBottleneck):
        _make_bottleneck_tables(model)
    else:
        _make_gaussian_tables(model)
    # CompressAI keeps them padded to the longest.
    lengths = model._cdf_length.reshape(-1).tolist()
    padded = model._quantized_cdf.cpu().numpy()
    cdfs = [cdf[:length] for cdf, length in zip(padded, lengths, strict=True)]
    return CodingTables._joined(cdfs, model._offset.cpu().numpy().reshape(-1))


@torch.no_grad()
def _make_bottleneck_tables(model: Any) -> None:
    exact = deepcopy(model).cpu().double()
    quantiles = _quantiles(exact)
    exact.quantiles.copy_(quantiles)
    exact.update(force=True)
    model.quantiles.copy_(quantiles)
    for name in ("_quantized_cdf", "_offset", "_cdf_length"):
        setattr(model, name, getattr(exact, name).to(model.quantiles.device))


def _quantiles(exact: Any) -> Tensor:
    """Return where the cumulative densities are the targets, float64 [C, 1, 3], by bisection."""
    target = exact.target.double()
    low = torch.full_like(exact.quantiles, -_FARTHEST)
    high = -low
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_below = exact._logits_cumulative(middle, stop_gradient=True) < target
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return torch.round(high / _QUANTILE_STEP) * _QUANTILE_STEP


def _make_gaussian_tables(model: Any) -> None:
    device = model.scale_table.device
    names = ("scale_table", "_quantized_cdf", "_offset", "_cdf_length")
    for name, table in zip(names, _gaussian_tables(model.tail_mass), strict=True):
        setattr(model, name, table.to(device, copy=True))


@cache
def _gaussian_tables(tail_mass: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a GaussianConditional's scales, tables, offsets and lengths: they have no weights."""
    model = GaussianConditional(None, tail_mass=tail_mass)
    least, greatest, number = _SCALES
    exponents = torch.linspace(math.log(least), math.log(greatest), number, dtype=torch.float64)
    scale_table = exponents.exp().float()
    scales = scale_table.double()[:, None]
    reach = -model._standardized_quantile(model.tail_mass / 2)
    center = torch.ceil(scales * reach).int()
    length = 2 * center[:, 0] + 1
    longest = int(length.max())
    distance = (torch.arange(longest) - center).abs().double()
    upper = model._standardized_cumulative((0.5 - distance) / scales)
    lower = model._standardized_cumulative((-0.5 - distance) / scales)
    cdf = model._pmf_to_cdf(upper - lower, 2 * lower[:, :1], length, longest)
    return scale_table, cdf, -center[:, 0], length + 2


def scale_indexes(scales: Tensor, scale_table: Tensor) -> Tensor:
    """Return the index of each scale's table: the smallest scale in it that is not below it.

    The same as compressai's GaussianConditional.build_indexes, in one call instead of 63.
    """
    return torch.searchsorted(scale_table[:-1].to(scales.dtype), scales.contiguous())


def encode(symbols: Tensor, indexes: Tensor, tables: CodingTables) -> list[bytes]:
    """Return each sample's bytes; `symbols` and `indexes` are whole numbers [B, ...].

    Raises CacheError for symbols that no sound model gives: not finite, or beyond 2^30.
    """
    if not bool((symbols.abs() <= rans.MAX_SYMBOL).all()):
        raise CacheError(
            "this model's latents are not finite, or beyond 2^30, and cannot be coded: "
            "train it again, with a smaller learning rate"
        )
    values = _flat(symbols)
    return [
        rans.encode(sample, places, tables.arrays)
        for sample, places in zip(values, _flat(indexes), strict=True)
    ]


class LatentDecoder:
    """Decodes the strings of a batch, in as many pieces as the caller likes.

    `next` and `finish` raise CacheError for strings that `encode` has not written for this model.
    """

    def __init__(self, strings: Sequence[bytes], tables: CodingTables) -> None:
        self._tables = tables
        self._decoders = [rans.Decoder(string) for string in strings]

    def next(self, indexes: Tensor) -> Tensor:
        """Return the next symbols, int32 of the shape of `indexes` [B, ...], on its device."""
        try:
            symbols = [
                decoder.next(places, self._tables.arrays)
                for decoder, places in zip(self._decoders, _flat(indexes), strict=True)
            ]
        except ValueError as error:
            raise _damaged(error) from error
        return torch.from_numpy(np.stack(symbols)).reshape(indexes.shape).to(indexes.device)

    def finish(self) -> None:
        """Check that every string has ended with its last symbol."""
        try:
            for decoder in self._decoders:
                decoder.finish()
        except ValueError as error:
            raise _damaged(error) from error


def _flat(values: Tensor) -> NDArray[Any]:
    """Return int32 [B, n]."""
    flat: NDArray[Any] = values.flatten(1).to("cpu", torch.int32).contiguous().numpy()
    return flat


def _damaged(error: ValueError) -> CacheError:
    return CacheError(
        f"the payload is damaged, or another model's ({error}): compress the features again"
    )


def channel_indexes(shape: Sequence[int]) -> Tensor:
    """Return each latent's channel, int64 of `shape` [B, C, h, w]."""
    return torch.arange(shape[1])[:, None, None].expand(*shape)
