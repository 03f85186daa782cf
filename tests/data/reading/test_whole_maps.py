"""Whole maps for evaluation: each sample once, one shape at a time, bounded by their values."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.reading import whole_maps
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch
from data.reading.whole_maps import whole_map_batches
from tests.support.extraction import TinyCache


@pytest.fixture
def reader(tiny_cache: TinyCache) -> Iterator[LevelReader]:
    with LevelReader(tiny_cache.folder, 0) as opened:
        yield opened


def indices_of(batches: list[Batch]) -> list[int]:
    return [int(index) for batch in batches for index in batch.indices]


def test_whole_map_batches_hold_each_sample_once_and_one_shape_at_a_time(
    reader: LevelReader,
) -> None:
    batches = list(whole_map_batches(reader, 2))
    assert sorted(indices_of(batches)) == list(range(8))
    shapes = [tuple(batch.features.shape[1:]) for batch in batches]
    assert len(set(shapes)) == 3
    assert [s for i, s in enumerate(shapes) if i == 0 or shapes[i - 1] != s] == list(
        dict.fromkeys(shapes)
    )
    for batch in batches:
        for slot, index in enumerate(batch.indices.tolist()):
            found = batch.features[slot].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(found, reader.sample(index))
            assert batch.sizes[slot].tolist() == list(reader.shape(index)[:2])


def test_whole_map_batches_of_chosen_samples_hold_those_only(reader: LevelReader) -> None:
    assert sorted(indices_of(list(whole_map_batches(reader, 4, [5, 2])))) == [2, 5]


@pytest.mark.parametrize("num_maps", [1, 2])
def test_whole_map_batches_are_bounded_by_their_values_whatever_the_batch_size(
    reader: LevelReader, monkeypatch: pytest.MonkeyPatch, num_maps: int
) -> None:
    largest = max(int(np.prod(reader.shape(index))) for index in range(8))
    monkeypatch.setattr(whole_maps, "_MOST_VALUES", num_maps * largest - (num_maps == 1))
    batches = list(whole_map_batches(reader, 100))
    assert sorted(indices_of(batches)) == list(range(8))
    assert all(
        batch.features.numel() <= num_maps * largest or len(batch.indices) == 1 for batch in batches
    )
    assert max(len(batch.indices) for batch in batches) >= num_maps


def test_a_whole_map_of_800_by_1088_pixels_is_a_batch_at_the_finest_level() -> None:
    class Large:
        info = SimpleNamespace(index=0)
        num_samples = 3

        def shape(self, index: int) -> tuple[int, int, int]:
            return 200, 272, 256

        def sample(self, index: int) -> Any:
            return np.broadcast_to(np.float16(index), self.shape(index))

        def expect(self, indices: list[int]) -> bool:
            return False

    sizes = [len(batch.indices) for batch in whole_map_batches(Large(), 32)]  # type: ignore[arg-type]
    assert sizes == [1, 1, 1]
