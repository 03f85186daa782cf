"""Maps that lie on the device give the batches of the stream, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import CacheError
from data.reading import resident
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch, LevelStream
from data.reading.mixed_stream import MixedLevelStream
from data.reading.resident import ResidentMaps, resident_bytes
from tests.support.devices import DEVICES
from tests.support.extraction import TinyCache

pytestmark = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture
def readers(zarr_cache: TinyCache) -> Iterator[list[LevelReader]]:
    opened = [LevelReader(zarr_cache.folder, level) for level in range(3)]
    yield opened
    for reader in opened:
        reader.close()


def streams_of(reader: LevelReader, device: str, **options: Any) -> tuple[LevelStream, LevelStream]:
    """The stream from files, and the one from the device."""
    settings = {"batch_size": 3, "crop": 16, "seed": 7, "copy": True} | options
    maps = ResidentMaps(reader, device)
    assert maps.device.type == device
    return LevelStream(reader, **settings), LevelStream(reader, resident=maps, **settings)


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        for name in (each.name for each in fields(Batch)):
            one, other = getattr(ours, name), getattr(theirs, name)
            if isinstance(other, torch.Tensor):
                assert one.stride() == other.stride()
                assert one.dtype == other.dtype
                assert torch.equal(one.cpu(), other), name
            else:
                assert one == other, name


@pytest.mark.parametrize("shuffle", ["full", "shards"])
@pytest.mark.parametrize("crop", [None, 5, 16, 26])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_from_the_device_are_those_of_the_files(
    readers: list[LevelReader], device: str, crop: int | None, batch_size: int, shuffle: str
) -> None:
    for reader in readers:
        files, maps = streams_of(
            reader, device, crop=crop, batch_size=batch_size, shuffle=shuffle
        )  # fmt: skip
        for _ in range(2):
            assert_same(list(maps), list(files))


def test_a_rank_takes_its_part_of_each_batch(readers: list[LevelReader], device: str) -> None:
    for rank in range(3):
        files, maps = streams_of(readers[0], device, crop=26, rank=rank, num_ranks=3)
        assert_same(list(maps), list(files))


def test_a_run_goes_on_with_maps_on_the_device_where_it_stopped_with_files(
    readers: list[LevelReader], device: str
) -> None:
    files, maps = streams_of(readers[0], device)
    batches = iter(files)
    next(batches)
    maps.load_state_dict(files.state_dict())
    started = iter(maps)
    assert_same([next(started)], [next(batches)])
    assert maps.state_dict() == files.state_dict()
    files.load_state_dict(maps.state_dict())
    assert_same(list(files), list(started))


def test_a_mix_may_have_some_levels_on_the_device(readers: list[LevelReader], device: str) -> None:
    pairs = [streams_of(reader, device) for reader in readers]
    weights = {"weights": (1.0, 1.0, 1.0), "seed": 5}
    mixed = MixedLevelStream([pairs[0][0], pairs[1][1], pairs[2][1]], **weights)  # type: ignore[arg-type]
    streams = [streams_of(reader, device)[0] for reader in readers]
    wanted = MixedLevelStream(streams, **weights)  # type: ignore[arg-type]
    for _ in range(3):
        assert_same(list(mixed), list(wanted))


def test_maps_are_loaded_part_by_part_and_take_what_they_are_said_to(
    readers: list[LevelReader], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_LOADED_BYTES", 300_000)
    for reader in readers:
        maps = ResidentMaps(reader, device)
        assert maps.values.nbytes == resident_bytes(reader)
        for index in range(reader.num_samples):
            wanted = reader.sample(index)
            found = maps.values[maps.starts[index] :][: wanted.size].cpu().numpy()
            np.testing.assert_array_equal(found, wanted.reshape(-1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_runs_are_gathered_whatever_the_number_of_channels(
    readers: list[LevelReader], device: str, channels: int
) -> None:
    reader = readers[2]
    maps = ResidentMaps(_WithChannels(reader, channels), device)  # type: ignore[arg-type]
    offsets = np.array([8, 0, 4]) * channels
    out = torch.empty(3 * 2 * channels, dtype=maps.values.dtype, device=device)
    maps.gather(offsets, 2 * channels, out)
    wanted = torch.cat([maps.values[start : start + 2 * channels] for start in offsets.tolist()])
    assert torch.equal(out, wanted)


class _WithChannels:
    """A level's maps, read as if they were of few channels: [1, 12, C] each."""

    def __init__(self, reader: LevelReader, channels: int) -> None:
        self._reader = reader
        self.shapes = np.array([[1, 12, channels]] * reader.num_samples)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


class _BrokenReader(LevelReader):
    def require_whole(self, indices: Any) -> None:
        if 4 in indices:
            raise CacheError("sample 4 is damaged")


def test_damage_is_found_when_maps_are_loaded(zarr_cache: TinyCache, device: str) -> None:
    with _BrokenReader(zarr_cache.folder, 0) as broken, pytest.raises(CacheError, match="sample 4"):
        ResidentMaps(broken, device)
