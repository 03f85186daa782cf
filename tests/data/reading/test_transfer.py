"""Batches on the computing device: the right values, and none overwritten while it is copied."""

from __future__ import annotations

import pytest
import torch

from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
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
def test_batches_as_stored_are_converted_on_a_cpu_alone(zarr_cache: TinyCache, device: str) -> None:
    with LevelReader(zarr_cache.folder, 0) as reader:
        stream = LevelStream(reader, batch_size=1, crop=16, keep=2, pin_memory=device != "cpu")
        _, x = next(iter(on_device(stream, device, as_stored=True)))
        assert x.dtype == (torch.float32 if device == "cpu" else torch.float16)
