"""Batches from a cache: each sample once, the right crop of it, resumable, errors not lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from configs.errors import CacheError
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch, LevelStream
from data.reading.order import batch_shares, crop_fractions, epoch_order
from tests.support.extraction import TinyCache

CROP = 16


@pytest.fixture
def reader(tiny_cache: TinyCache) -> Iterator[LevelReader]:
    with LevelReader(tiny_cache.folder, 0) as opened:
        yield opened


def indices_of(batches: list[Batch]) -> list[int]:
    return [int(index) for batch in batches for index in batch.indices]


def stream_of(reader: LevelReader, **options: Any) -> LevelStream:
    return LevelStream(reader, **({"batch_size": 3, "crop": CROP, "copy": True} | options))


def test_epoch_yields_each_sample_once(reader: LevelReader) -> None:
    batches = list(stream_of(reader))
    assert sorted(indices_of(batches)) == list(range(8))
    assert [len(batch.indices) for batch in batches] == [3, 3, 2]
    assert len(batches) == len(stream_of(reader))


def test_order_is_the_same_for_one_seed_and_differs_between_seeds_and_epochs(
    reader: LevelReader,
) -> None:
    stream = stream_of(reader, seed=7)
    first, second = indices_of(list(stream)), indices_of(list(stream))
    again = stream_of(reader, seed=7)
    assert indices_of(list(again)) == first
    assert first != second
    assert indices_of(list(stream_of(reader, seed=8))) not in (first, second)
    again.set_epoch(0)
    assert indices_of(list(again)) == first


def test_crop_differs_between_epochs_and_not_with_batch_size(reader: LevelReader) -> None:
    def crops(batch_size: int, epoch: int) -> dict[int, torch.Tensor]:
        stream = stream_of(reader, batch_size=batch_size)
        stream.set_epoch(epoch)
        return {
            int(index): features
            for batch in stream
            for index, features in zip(batch.indices, batch.features, strict=True)
        }

    one, three, later = crops(1, 0), crops(3, 0), crops(3, 1)
    assert all(torch.equal(one[index], three[index]) for index in range(8))
    assert not all(torch.equal(three[index], later[index]) for index in range(8))


@pytest.mark.parametrize("consumed", [0, 1, 2, 3])
def test_stream_resumed_mid_epoch_yields_exactly_the_remaining_batches(
    reader: LevelReader, consumed: int
) -> None:
    whole = list(stream_of(reader, seed=3))
    stream = stream_of(reader, seed=3)
    started = iter(stream)
    for _ in range(consumed):
        next(started)
    resumed = stream_of(reader, seed=3)
    resumed.load_state_dict(stream.state_dict())
    rest = list(resumed)
    assert indices_of(rest) == indices_of(whole[consumed:])
    for ours, theirs in zip(rest, whole[consumed:], strict=True):
        assert torch.equal(ours.features, theirs.features)
    assert resumed.state_dict() == {"epoch": 1, "next_batch": 0}


def test_crop_is_the_slice_that_order_and_fractions_say(reader: LevelReader) -> None:
    stream = stream_of(reader, seed=5)
    stream.set_epoch(2)
    fractions = crop_fractions(num_samples=8, seed=5, epoch=2)
    for batch in stream:
        for slot, index in enumerate(batch.indices.tolist()):
            height, width, _ = reader.shape(index)
            top = int(fractions[index, 0] * (height - CROP + 1))
            left = int(fractions[index, 1] * (width - CROP + 1))
            assert batch.corners[slot].tolist() == [top, left]
            expected = reader.sample(index)[top : top + CROP, left : left + CROP]
            found = batch.features[slot].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(found, expected)


def test_crop_as_large_as_one_side_of_the_map_reaches_both_its_ends() -> None:
    fractions = crop_fractions(num_samples=2000, seed=0, epoch=0)
    tops = (fractions[:, 0] * (24 - CROP + 1)).astype(int)
    assert set(tops.tolist()) == set(range(24 - CROP + 1))


def test_order_is_a_permutation_of_all_samples() -> None:
    order = epoch_order(num_samples=1000, seed=1, epoch=4)
    assert sorted(order.tolist()) == list(range(1000))


@pytest.mark.parametrize("crop", [None, 26])
def test_maps_smaller_than_the_batch_are_padded_by_replication(
    reader: LevelReader, crop: int | None
) -> None:
    (batch,) = stream_of(reader, batch_size=8, crop=crop)
    limit = crop or 10**9
    assert batch.features.shape == (8, 256, *(min(limit, side) for side in (32, 32)))
    corners = crop_fractions(num_samples=8, seed=0, epoch=0)
    for slot, index in enumerate(batch.indices.tolist()):
        whole = reader.sample(index)
        height, width = (min(limit, side) for side in whole.shape[:2])
        assert batch.sizes[slot].tolist() == [height, width]
        top = int(corners[index, 0] * (whole.shape[0] - height + 1))
        left = int(corners[index, 1] * (whole.shape[1] - width + 1))
        cropped = whole[top : top + height, left : left + width]
        missing = [(0, batch.features.shape[2] - height), (0, batch.features.shape[3] - width)]
        expected = np.pad(cropped, [*missing, (0, 0)], mode="edge")
        np.testing.assert_array_equal(batch.features[slot].permute(1, 2, 0).numpy(), expected)


def test_batch_is_channels_last_in_the_stored_dtype(reader: LevelReader) -> None:
    for batch in stream_of(reader, copy=False):
        assert batch.features.dtype == torch.float16
        assert batch.features.is_contiguous(memory_format=torch.channels_last)
        assert batch.indices.dtype == batch.sizes.dtype == torch.int64


@pytest.fixture
def single_batch_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch fills a slot of the ring of its own, as on fine levels."""
    monkeypatch.setattr("data.reading.epoch_tiles.BLOCK_BYTES", 1)


KEEP = pytest.mark.parametrize("keep", [1, 2])
READ_AHEAD = pytest.mark.parametrize("read_ahead", [False, True])


@KEEP
@READ_AHEAD
@pytest.mark.usefixtures("single_batch_blocks")
def test_memory_of_batches_is_reused_without_copy(
    reader: LevelReader, keep: int, read_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.reading.read_ahead._MOST_BYTES", 0)
    stream = stream_of(reader, batch_size=1, copy=False, keep=keep, read_ahead=read_ahead)
    kept = list(stream)
    assert len({batch.features.data_ptr() for batch in kept}) == keep + 2 * read_ahead
    copies = list(stream_of(reader, batch_size=1, copy=True))
    assert len({batch.features.data_ptr() for batch in copies}) == len(copies)
    assert not torch.equal(kept[0].features, copies[0].features)


@KEEP
@READ_AHEAD
@pytest.mark.usefixtures("single_batch_blocks")
def test_latest_batches_stay_whole_as_long_as_documented(
    reader: LevelReader, keep: int, read_ahead: bool
) -> None:
    copies = list(stream_of(reader, batch_size=1, copy=True))
    held = list[Batch]()
    for batch in stream_of(reader, batch_size=1, copy=False, keep=keep, read_ahead=read_ahead):
        held.append(batch)
        # The thread has time to fill every slot of the ring that it may fill.
        torch.rand(200, 200).inverse()
        for position in range(max(0, len(held) - keep), len(held)):
            assert torch.equal(held[position].features, copies[position].features)


@READ_AHEAD
@pytest.mark.usefixtures("single_batch_blocks")
def test_two_iterators_of_one_stream_do_not_share_memory(
    reader: LevelReader, read_ahead: bool
) -> None:
    expected = list(stream_of(reader, batch_size=1, copy=True))
    stream = stream_of(reader, batch_size=1, copy=False, read_ahead=read_ahead)
    one = iter(stream)
    next(one)
    stream.set_epoch(0)
    two = iter(stream)
    for position in range(1, 8):
        stream.set_epoch(0)
        found = next(one)
        next(two)
        assert torch.equal(found.features, expected[position].features)


@pytest.mark.parametrize("block_bytes", [1, 40_000, 2**20])
def test_batches_do_not_depend_on_the_size_of_blocks(
    reader: LevelReader, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    expected = list(stream_of(reader))
    monkeypatch.setattr("data.reading.epoch_tiles.BLOCK_BYTES", block_bytes)
    for ours, theirs in zip(stream_of(reader), expected, strict=True):
        assert torch.equal(ours.features, theirs.features)
        assert ours.indices.tolist() == theirs.indices.tolist()


@given(num_samples=st.integers(1, 40), batch_size=st.integers(1, 9), num_ranks=st.integers(1, 5))
def test_ranks_share_every_batch_without_gap_or_overlap(
    num_samples: int, batch_size: int, num_ranks: int
) -> None:
    shares = [
        batch_shares(num_samples=num_samples, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    for batch in range(-(-num_samples // batch_size)):
        parts = []
        for positions, counts in shares:
            begin = int(counts[:batch].sum())
            parts += positions[begin : begin + counts[batch]].tolist()
        first = batch * batch_size
        assert parts == list(range(first, min(first + batch_size, num_samples)))
    for counts in zip(*(counts.tolist() for _, counts in shares), strict=True):
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("block_bytes", [1, 2**22])
def test_parts_of_the_ranks_are_the_rows_of_the_whole_batch(
    reader: LevelReader, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr("data.reading.epoch_tiles.BLOCK_BYTES", block_bytes)
    whole = list(stream_of(reader, crop=26))
    parts = [list(stream_of(reader, crop=26, rank=rank, num_ranks=3)) for rank in range(3)]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        assert torch.equal(torch.cat([share.features for share in shares]), batch.features)
        assert torch.equal(torch.cat([share.sizes for share in shares]), batch.sizes)
        row = 0
        for share in shares:
            assert share.first_row == row
            row += len(share.indices)
            assert share.batch_rows == len(batch.indices)
            assert share.batch_positions == int(batch.sizes.prod(1).sum())
    assert len(parts[0][-1].indices) == 0  # two samples are left for three ranks


class _BrokenReader(LevelReader):
    """Fails at one sample, as a disk may."""

    def require_whole(self, indices: Any) -> None:
        if 4 in indices:
            raise CacheError("sample 4 cannot be read")


@pytest.mark.usefixtures("single_batch_blocks")
def test_error_in_the_thread_surfaces_where_the_batches_are_taken(zarr_cache: TinyCache) -> None:
    with (
        _BrokenReader(zarr_cache.folder, 0) as broken,
        pytest.raises(CacheError, match="sample 4 cannot be read"),
    ):
        list(stream_of(broken, batch_size=1, read_ahead=True))


@pytest.mark.usefixtures("single_batch_blocks")
def test_stream_left_early_stops_its_thread(reader: LevelReader) -> None:
    batches = iter(stream_of(reader, batch_size=1, read_ahead=True))
    next(batches)
    assert "run-ahead" in {thread.name for thread in threading.enumerate()}
    batches.close()  # type: ignore[attr-defined]
    assert "run-ahead" not in {thread.name for thread in threading.enumerate()}


def test_plain_data_loader_yields_the_streams_own_batches(reader: LevelReader) -> None:
    loader = DataLoader(stream_of(reader), batch_size=None)
    expected = list(stream_of(reader))
    found = list(loader)
    assert len(loader) == len(found) == 3
    assert indices_of(found) == indices_of(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.features, theirs.features)


def test_data_loader_with_workers_is_refused(reader: LevelReader) -> None:
    loader = DataLoader(
        stream_of(reader), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises(RuntimeError, match="use num_workers=0"):
        list(loader)
