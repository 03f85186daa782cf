"""Batches on the computing device: the right values, and none overwritten while it is copied."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from data.reading.level_dataset import LevelDataset
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch, LevelStream
from data.reading.transfer import DeviceIdle, Waiting, on_device
from data.reading.whole_maps import whole_map_batches
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


class Moment:
    """An event at a known time, in milliseconds."""

    def __init__(self, at: float) -> None:
        self.at = at

    def elapsed_time(self, end_event: Moment) -> float:
        return end_event.at - self.at


def test_a_device_waits_from_the_end_of_a_step_until_the_next_batch_has_arrived() -> None:
    waiting = Waiting()
    idle = DeviceIdle(waiting)
    # The second batch came while the first step ran, the third 30 ms after the second step's end.
    for arrival, end in ((0, 100), (60, 200), (230, 300)):
        idle.arrived(Moment(arrival))
        idle.computed(Moment(end))
    idle.add_up(1)
    assert waiting.seconds == 0
    idle.add_up(0)
    idle.add_up(0)
    assert waiting.seconds == pytest.approx(0.030)


def test_of_the_first_batch_alone_the_callers_time_is_counted() -> None:
    taken = []

    def slow() -> Iterator[int]:
        for number in range(3):
            start = time.perf_counter()
            time.sleep(0.03)
            taken.append(time.perf_counter() - start)
            yield number

    waiting = Waiting()
    assert list(DeviceIdle(waiting).first_timed(slow())) == [0, 1, 2]
    assert taken[0] <= waiting.seconds < taken[0] + 0.06


@pytest.mark.gpu
def test_a_gpu_idles_while_the_stream_is_slower_than_its_steps(zarr_cache: TinyCache) -> None:
    with LevelReader(zarr_cache.folder, 0) as reader:
        stream = LevelStream(reader, batch_size=1, crop=16, keep=2, pin_memory=True)

        def slow() -> Iterator[Batch]:
            for batch in stream:
                time.sleep(0.05)
                yield batch

        waiting = Waiting()
        for _ in on_device(slow(), "cuda", waiting):
            pass
    assert waiting.seconds > 0.3


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
