"""LevelDataset: whole maps by index, also in worker processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.cache.cache_folder import CacheFolder
from data.reading.level_dataset import LevelDataset
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from data.reading.whole_maps import whole_map_batches
from data.verification.check import verify_cache
from tests.support.extraction import TinyCache


def test_item_is_the_stored_map_of_that_image(tiny_cache: TinyCache) -> None:
    dataset = LevelDataset(tiny_cache.folder, 1)
    assert len(dataset) == 8
    for index in range(8):
        found = dataset[index]
        np.testing.assert_array_equal(found.permute(1, 2, 0), dataset.reader.sample(index))
        assert found.dtype == torch.float16
        assert found[None].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(dataset[-1], dataset[7])


@pytest.mark.parametrize("as_given", [str, Path, CacheFolder])
def test_cache_may_be_a_text_a_path_or_open_already(
    zarr_cache: TinyCache, as_given: Callable[[Path], Any]
) -> None:
    cache = as_given(zarr_cache.folder)
    dataset = LevelDataset(cache, 4)
    with LevelReader(cache, 4) as reader:
        assert reader.num_samples == len(dataset) == 8
        assert reader.cache == zarr_cache.folder
    assert verify_cache(cache).damages == []


@pytest.mark.parametrize("index", [8, -9])
def test_index_beyond_the_last_image_is_an_index_error(zarr_cache: TinyCache, index: int) -> None:
    with pytest.raises(IndexError, match=f"level 1 has 8 samples, not number {index}"):
        LevelDataset(zarr_cache.folder, 1)[index]


def test_items_are_copies_that_may_be_changed(zarr_cache: TinyCache) -> None:
    dataset = LevelDataset(zarr_cache.folder, 0)
    dataset[0].zero_()
    assert dataset[0].any()


# Whoever is spawned has torch to import.
@pytest.mark.parametrize(("context", "num_workers"), [("fork", 2), ("spawn", 1)])
def test_data_loader_with_workers_yields_every_map(
    tiny_cache: TinyCache, context: str, num_workers: int
) -> None:
    dataset = LevelDataset(tiny_cache.folder, 3)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=num_workers, multiprocessing_context=context,
        shuffle=False,
    )  # fmt: skip
    for index, found in enumerate(loader):
        assert torch.equal(found, dataset[index])


def test_pickled_data_set_opens_the_files_anew(zarr_cache: TinyCache) -> None:
    dataset = LevelDataset(zarr_cache.folder, 2)
    again = pickle.loads(pickle.dumps(dataset))
    assert again.reader is not dataset.reader
    assert torch.equal(again[5], dataset[5])


def test_what_a_reader_hands_out_is_read_only_or_a_copy(tiny_cache: TinyCache) -> None:
    """The pages are read-only: a write to one of them would be a segmentation fault."""
    with LevelReader(tiny_cache.folder, 1) as reader:
        before = reader.files.memory.copy()
        for array in (reader.values, reader.sample(3), reader.sample(3)[1:, 2:]):
            with pytest.raises(ValueError, match="read-only"):
                array += 1
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
        assert reader.values[reader.starts[3]] == reader.sample(3)[0, 0, 0]
        streams = [LevelStream(reader, batch_size=4, crop=crop) for crop in (None, 3)]
        batches = [next(iter(stream)) for stream in streams]
        batches += whole_map_batches(reader, 4)
        items = [LevelDataset(tiny_cache.folder, 1)[2], *(batch.features for batch in batches)]
        for item in items:
            item += 1
        np.testing.assert_array_equal(reader.files.memory, before)
