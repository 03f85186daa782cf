"""Symbols to bytes and back: range coding (rANS) with the tables of CompressAI's entropy models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.compressai_parts import RansDecoder, RansEncoder


@dataclass(frozen=True, slots=True)
class CodingTables:
    """One cumulative distribution for each index: its values, their number, its first symbol."""

    cdfs: list[list[int]]
    lengths: list[int]
    offsets: list[int]


def coding_tables(model: Any) -> CodingTables:
    """Return the tables of an updated EntropyBottleneck or GaussianConditional.

    CompressAI makes these lists anew for every sample, padded to the longest; the coder converts
    them on every call, so each is cut to its own length (for Gaussians a seventh of it remains).
    """
    lengths: list[int] = model._cdf_length.tolist()
    padded: list[list[int]] = model._quantized_cdf.tolist()
    return CodingTables(
        cdfs=[cdf[:length] for cdf, length in zip(padded, lengths, strict=True)],
        lengths=lengths,
        offsets=model._offset.tolist(),
    )


def scale_indexes(scales: Tensor, scale_table: Tensor) -> Tensor:
    """Return the index of each scale's table: the smallest scale in it that is not below it.

    The same as compressai's GaussianConditional.build_indexes, in one call instead of 63.
    """
    return torch.searchsorted(scale_table[:-1].to(scales.dtype), scales.contiguous())


def encode(symbols: Tensor, indexes: Tensor, tables: CodingTables) -> list[bytes]:
    """Return each sample's bytes; `symbols` and `indexes` are whole numbers [B, ...]."""
    pairs = zip(symbols.flatten(1).int().tolist(), indexes.flatten(1).tolist(), strict=True)
    return [
        RansEncoder().encode_with_indexes(
            sample, places, tables.cdfs, tables.lengths, tables.offsets
        )
        for sample, places in pairs
    ]


class Decoder:
    """Decodes the strings of a batch, in as many pieces as the caller likes."""

    def __init__(self, strings: Sequence[bytes], tables: CodingTables) -> None:
        self._tables = tables
        self._decoders = [RansDecoder() for _ in strings]
        for decoder, string in zip(self._decoders, strings, strict=True):
            decoder.set_stream(string)

    def next(self, indexes: Tensor) -> Tensor:
        """Return the next symbols, int32 of the shape of `indexes` [B, ...], on its device."""
        tables = self._tables
        symbols = [
            decoder.decode_stream(places, tables.cdfs, tables.lengths, tables.offsets)
            for decoder, places in zip(self._decoders, indexes.flatten(1).tolist(), strict=True)
        ]
        return torch.tensor(symbols, dtype=torch.int32, device=indexes.device).reshape(
            indexes.shape
        )
