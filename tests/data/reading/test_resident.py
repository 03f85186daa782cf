"""Maps that lie on the device give the batches of the stream, to the bit."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from configs.errors import CacheError, ConfigError
from data.reading import resident
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch, LevelStream, MixedLevelStream
from data.reading.resident import ResidentMaps, resident_bytes, resident_maps, which_fit
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


@pytest.fixture
def two_readers(zarr_cache: TinyCache) -> Iterator[list[LevelReader]]:
    opened = [LevelReader(zarr_cache.folder, level) for level in range(2)]
    yield opened
    for reader in opened:
        reader.close()


@pytest.mark.parametrize(
    ("room", "fit"),
    [
        (None, [True, True, True]), (21, [True, True, True]), (20, [False, True, True]),
        (4, [False, False, True]), (0, [False, False, False]),
    ],
)  # fmt: skip
def test_the_coarsest_levels_are_the_first_to_fit(room: int | None, fit: list[bool]) -> None:
    assert which_fit([16, 4, 1], room) == fit


def test_on_a_cpu_levels_lie_in_memory_only_where_the_user_says_so(
    two_readers: list[LevelReader],
) -> None:
    assert resident_maps(two_readers, "auto", "cpu") == [None, None]
    assert resident_maps(two_readers, "never", "cpu") == [None, None]
    for maps, reader in zip(resident_maps(two_readers, "always", "cpu"), two_readers, strict=True):
        assert maps is not None
        assert maps.values.nbytes == resident_bytes(reader)


def as_if_on_a_gpu(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let the CPU's memory be as limited as a GPU's."""
    monkeypatch.setattr(resident, "free_bytes", lambda device: free)


def test_what_does_not_fit_though_it_always_should_is_one_clear_error(
    two_readers: list[LevelReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_on_a_gpu(monkeypatch, free=2 * sum(map(resident_bytes, two_readers)) - 2)
    with pytest.raises(ConfigError, match=r"training.resident: the maps take .* more than 50%"):
        resident_maps(two_readers, "always", "cpu")


def test_the_log_says_what_lies_where_and_why(
    two_readers: list[LevelReader],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    as_if_on_a_gpu(monkeypatch, free=10**9)
    with caplog.at_level(logging.INFO, logger=resident.__name__):
        resident_maps(two_readers, "always", "cpu")
    assert "level 0 lies on cpu: its maps take" in caplog.text
    assert "50% of 1.00 GB free there are for maps" in caplog.text


@pytest.mark.gpu
def test_on_a_gpu_a_level_that_fits_lies_there(two_readers: list[LevelReader]) -> None:
    for maps in resident_maps(two_readers, "auto", "cuda"):
        assert maps is not None
        assert maps.device.type == "cuda"


@pytest.mark.gpu
def test_memory_that_torch_keeps_of_maps_that_are_gone_counts_as_free() -> None:
    device = torch.device("cuda")
    before = resident.free_bytes(device)
    gone = torch.empty(2**28, dtype=torch.uint8, device=device)
    del gone
    assert before is not None
    assert abs((resident.free_bytes(device) or 0) - before) < 2**26
