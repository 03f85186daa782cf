"""Blocks filled ahead by several threads: right whatever the threads, deeper where that helps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from data.reading import read_ahead
from data.reading.epoch_tiles import Block, Epoch
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from data.reading.read_ahead import ReadAhead, spare_cores
from tests.support.extraction import TinyCache


@pytest.fixture
def reader(zarr_cache: TinyCache) -> Iterator[LevelReader]:
    with LevelReader(zarr_cache.folder, 0) as opened:
        yield opened


@pytest.fixture
def epoch(reader: LevelReader, monkeypatch: pytest.MonkeyPatch) -> Epoch:
    monkeypatch.setattr("data.reading.epoch_tiles.BLOCK_BYTES", 1)
    return Epoch(reader, np.arange(8), 16, 0, 0, batch_size=1, rank=0, num_ranks=1)


@pytest.mark.parametrize("num_cores", [1, 3, 16])
@pytest.mark.parametrize(("crop", "batch_size"), [(None, 1), (16, 3), (26, 8)])
def test_blocks_are_the_same_however_many_cores_copy(
    zarr_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, num_cores: int, crop: int | None,
    batch_size: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("data.reading.epoch_tiles.BLOCK_BYTES", 1)
    monkeypatch.setattr("data.reading.level_stream.spare_cores", lambda num_ranks: num_cores)
    with LevelReader(zarr_cache.folder, 0) as reader:
        options = {"batch_size": batch_size, "crop": crop, "copy": True}
        wanted = list(LevelStream(reader, **options))  # type: ignore[arg-type]
        found = list(LevelStream(reader, read_ahead=True, **options))  # type: ignore[arg-type]
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.equal(ours.features, theirs.features)
            assert torch.equal(ours.indices, theirs.indices)


def test_copies_of_a_few_whole_maps_share_out_their_rows(reader: LevelReader) -> None:
    whole = Epoch(reader, np.arange(8), None, 0, 0, batch_size=1, rank=0, num_ranks=1)
    block = whole.blocks(0)[0]
    (length,) = whole.num_values(block)
    memory = torch.empty(length, dtype=torch.float16)
    assert len(whole.copies(block, [memory], 3)) == 3


class _SlowEpoch:
    """Of an epoch, but what copies takes its time."""

    def __init__(self, epoch: Epoch, seconds: float) -> None:
        self._epoch, self._seconds = epoch, seconds

    def __getattr__(self, name: str) -> object:
        return getattr(self._epoch, name)

    def copies(
        self, block: Block, memory: Sequence[Tensor], num_parts: int
    ) -> list[Callable[[], None]]:
        return [*self._epoch.copies(block, memory, num_parts), lambda: time.sleep(self._seconds)]


def depth_after(epoch: Epoch, fill_s: float, step_s: float) -> int:
    ahead = ReadAhead([torch.float16], keep=2, pin_memory=False, num_cores=2)
    for _ in ahead.filled(_SlowEpoch(epoch, fill_s), epoch.blocks(0)):  # type: ignore[arg-type]
        time.sleep(step_s)
    return ahead.depth


def test_there_are_more_buffers_where_nothing_was_ready(epoch: Epoch) -> None:
    assert depth_after(epoch, fill_s=0.01, step_s=0.0) > 4


def test_buffers_are_as_few_as_can_be_where_steps_are_slower(epoch: Epoch) -> None:
    assert depth_after(epoch, fill_s=0.0, step_s=0.03) == 4


def test_buffers_take_no_more_memory_than_they_may(
    epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_MOST_BYTES", 5 * 16 * 16 * 256 * 2)
    assert depth_after(epoch, fill_s=0.01, step_s=0.0) == 5


@pytest.mark.parametrize(
    ("usable", "num_ranks", "local", "spare"),
    [(16, 1, None, 15), (1, 1, None, 1), (16, 8, None, 1), (16, 8, "4", 3)],
)
def test_cores_to_spare_are_those_beside_the_ones_that_ask_the_gpus(
    usable: int, num_ranks: int, local: str | None, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "usable_cores", lambda: usable)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert spare_cores(num_ranks) == spare
