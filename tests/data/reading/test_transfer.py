"""Batches on the computing device: the right values, and none overwritten while it is copied."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.reading.level_reader import LevelDataset, LevelReader
from data.reading.level_stream import LevelStream, whole_map_batches
from data.reading.transfer import on_device
from tests.support.devices import DEVICES
from tests.support.extraction import TinyCache


@pytest.mark.parametrize("of", [str, torch.device])
@pytest.mark.parametrize("name", DEVICES)
def test_batches_on_the_device_are_those_of_the_stream_in_float32(
    zarr_cache: TinyCache, name: str, of: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = of(name)
    monkeypatch.setattr("data.reading.epoch_tiles.BLOCK_BYTES", 1)
    with LevelReader(zarr_cache.folder, 0) as reader:
        expected = list(LevelStream(reader, batch_size=1, crop=16, copy=True))
        on_gpu = torch.device(device).type == "cuda"
        stream = LevelStream(
            reader, batch_size=1, crop=16, keep=2, pin_memory=on_gpu, read_ahead=on_gpu
        )
        found = [(batch.indices, x.clone()) for batch, x in on_device(stream, device)]
    for wanted, (indices, x) in zip(expected, found, strict=True):
        assert indices.tolist() == wanted.indices.tolist()
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x.cpu(), wanted.features.float())


@pytest.mark.parametrize("device", DEVICES)
def test_bytes_are_decoded_on_the_device_to_what_every_other_reader_gives(
    byte_cache: TinyCache, device: str
) -> None:
    with LevelReader(byte_cache.folder, 1) as reader:
        assert reader.code is not None
        on_gpu = device == "cuda"
        stream = LevelStream(reader, batch_size=1, crop=None, keep=2, pin_memory=on_gpu)
        for batch, x in on_device(stream, device):
            assert batch.features.dtype == torch.uint8
            assert x.dtype == torch.float32
            assert x.is_contiguous(memory_format=torch.channels_last)
            values = reader.sample(int(batch.indices))
            assert values.dtype == reader.value_dtype == np.float32
            np.testing.assert_array_equal(x[0].cpu().permute(1, 2, 0).numpy(), values)
        for batch in whole_map_batches(reader, 2):
            for index, features in zip(batch.indices.tolist(), batch.features, strict=True):
                values = reader.sample(index)
                np.testing.assert_array_equal(features.permute(1, 2, 0).numpy(), values)
        item = LevelDataset(byte_cache.folder, 1)[3]
        np.testing.assert_array_equal(item.permute(1, 2, 0).numpy(), reader.sample(3))
