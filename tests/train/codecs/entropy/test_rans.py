"""The range coder: every symbol comes back, few bytes are spent, and no string can hurt it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.errors import CacheError
from train.codecs.entropy import rans
from train.codecs.entropy.latent_coder import LatentDecoder, coding_tables, encode

EXTREMES = [rans.MAX_SYMBOL, -rans.MAX_SYMBOL]


def tables_of(frequencies: list[list[int]], offsets: list[int]) -> rans.Arrays:
    """Flat tables of rows of frequencies that add up to 2^16."""
    rows = [np.concatenate([[0], np.cumsum(row)]) for row in frequencies]
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int32)
    cdfs = np.concatenate(rows).astype(np.int32)
    return cdfs, starts, lengths, np.array(offsets, dtype=np.int32)


TABLES = tables_of(
    [[65535, 1], [1, 65535], [16384, 16384, 16384, 16384], [1, 1, 60000, 5533, 1]], [0, -3, 7, -2]
)


def decoded(string: bytes, indexes: NDArray[Any], tables: rans.Arrays) -> list[int]:
    decoder = rans.Decoder(string)
    symbols: list[int] = decoder.next(indexes, tables).tolist()
    decoder.finish()
    return symbols


@given(
    pairs=st.lists(
        st.tuples(
            st.one_of(
                st.integers(-12, 12), st.integers(*EXTREMES[::-1]), st.sampled_from(EXTREMES)
            ),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=60,
    ),
    cut=st.integers(0, 60),
)
@settings(max_examples=400, deadline=None)
def test_symbols_come_back_in_one_piece_or_two(pairs: list[tuple[int, int]], cut: int) -> None:
    symbols, indexes = (np.array(part, dtype=np.int32) for part in zip(*pairs, strict=True))
    string = rans.encode(symbols, indexes, TABLES)
    assert decoded(string, indexes, TABLES) == symbols.tolist()
    decoder = rans.Decoder(string)
    parts = [decoder.next(part, TABLES) for part in (indexes[:cut], indexes[cut:])]
    decoder.finish()
    assert np.concatenate(parts).tolist() == symbols.tolist()


def test_string_is_a_byte_or_so_longer_than_its_symbols_information() -> None:
    rng = np.random.default_rng(3)
    for num in (1, 10, 200, 20_000):
        frequencies = np.array([60000, 4000, 1000, 500, 35, 1])
        symbols = rng.choice(6, size=num, p=frequencies / 2**16).astype(np.int32)
        symbols = np.minimum(symbols, 4)  # the last entry is the escape's
        tables = tables_of([frequencies.tolist()], [0])
        string = rans.encode(symbols, np.zeros(num, dtype=np.int32), tables)
        bits = float(-np.log2(frequencies[symbols] / 2**16).sum())
        assert len(string) <= bits / 8 * 1.001 + 1.5


def test_certain_symbols_cost_one_byte_in_all() -> None:
    symbols = np.zeros(500, dtype=np.int32)
    assert len(rans.encode(symbols, symbols, TABLES)) == 1


@example(string=b"\xc0\x10\x01", num=5, table=2)  # an escape whose first digit is 0
@given(string=st.binary(max_size=80), num=st.integers(1, 200), table=st.integers(0, 3))
@settings(max_examples=500, deadline=None)
def test_any_string_gives_symbols_or_a_value_error(string: bytes, num: int, table: int) -> None:
    indexes = np.full(num, table, dtype=np.int32)
    try:
        symbols = decoded(string, indexes, TABLES)
    except ValueError:
        return
    assert rans.encode(np.array(symbols, dtype=np.int32), indexes, TABLES) == string


def test_most_altered_strings_are_noticed_without_a_checksum() -> None:
    rng = np.random.default_rng(4)
    symbols = rng.integers(-3, 4, 300).astype(np.int32)
    indexes = rng.integers(0, 4, 300).astype(np.int32)
    string = rans.encode(symbols, indexes, TABLES)
    num_noticed = 0
    for place in range(len(string)):
        altered = bytearray(string)
        altered[place] ^= int(rng.integers(1, 256))
        try:
            decoded(bytes(altered), indexes, TABLES)
        except ValueError:
            num_noticed += 1
    assert num_noticed > 0.85 * len(string)


def bottleneck() -> tuple[EntropyBottleneck, torch.Tensor]:
    torch.manual_seed(0)
    model = EntropyBottleneck(16).eval()
    model.update(force=True)
    return model, torch.round(4 * torch.randn(3, 16, 9, 11))


def test_strings_are_no_longer_than_compressais() -> None:
    model, symbols = bottleneck()
    medians = model._get_medians().reshape(1, -1, 1, 1).detach()
    theirs = model.compress(symbols + medians)
    indexes = torch.arange(16)[:, None, None].expand(symbols.shape)
    ours = encode(symbols, indexes, coding_tables(model))
    assert all(len(own) <= len(other) for own, other in zip(ours, theirs, strict=True))
    decoder = LatentDecoder(ours, coding_tables(model))
    assert torch.equal(decoder.next(indexes), symbols.int())
    decoder.finish()


def test_damage_and_latents_that_cannot_be_coded_are_a_cache_error() -> None:
    model, symbols = bottleneck()
    indexes = torch.arange(16)[:, None, None].expand(symbols.shape)
    tables = coding_tables(model)
    (first, *others) = encode(symbols, indexes, tables)
    decoder = LatentDecoder([first + b"\0", *others], tables)
    with pytest.raises(CacheError, match="payload is damaged, or another model's"):
        decoder.next(indexes)
        decoder.finish()
    for value in (float("nan"), float("inf"), 2.0**31):
        symbols[0, 0, 0, 0] = value
        with pytest.raises(CacheError, match="latents are not finite"):
            encode(symbols, indexes, tables)
