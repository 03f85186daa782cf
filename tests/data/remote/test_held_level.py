from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from configs.errors import CacheError, MachineError
from data.places.object_store import RemoteFolder
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from tests.support.remote_caches import num_bytes_held, opened, send_maps
from tests.support.small_caches import write_maps

SHAPE = (16, 24, 32)


@pytest.fixture
def maps() -> list[NDArray[Any]]:
    """Twenty maps of 24 kB, in three shards."""
    draw = np.random.default_rng(0)
    return [draw.standard_normal(SHAPE).astype(np.float16) for _ in range(20)]


@pytest.fixture
def url(
    bucket_url: str, tmp_path: Path, maps: list[NDArray[Any]], request: pytest.FixtureRequest
) -> str:
    """The cache's folder in the store; what sent it is gone."""
    send_maps(bucket_url, tmp_path / "sender", maps, getattr(request, "param", "zarr"))
    shutil.rmtree(tmp_path / "sender")
    return bucket_url


in_each_container = pytest.mark.parametrize("url", ["zarr", "hdf5"], indirect=True)


def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What ranges are asked for from now on."""
    asked: list[tuple[str, int, int]] = []
    real = RemoteFolder.get_range

    def get_range(self: RemoteFolder, name: str, start: int, num_bytes: int) -> memoryview:
        asked.append((name, start, num_bytes))
        return real(self, name, start, num_bytes)

    monkeypatch.setattr(RemoteFolder, "get_range", get_range)
    return asked


@in_each_container
def test_samples_are_those_that_were_written(
    url: str, tmp_path: Path, maps: list[NDArray[Any]]
) -> None:
    with LevelReader(opened(url, tmp_path / "here"), 0) as reader:
        for index in (3, 19, 0, *range(20)):
            np.testing.assert_array_equal(reader.sample(index), maps[index])


@in_each_container
def test_streamed_epochs_are_those_of_the_local_cache_and_the_second_asks_for_nothing(
    url: str, tmp_path: Path, maps: list[NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LevelReader(write_maps(tmp_path / "local", maps), 0)
    remote = LevelReader(opened(url, tmp_path / "here"), 0)
    streams = [LevelStream(reader, batch_size=4, crop=8, seed=0) for reader in (local, remote)]
    asked = requests(monkeypatch)
    for epoch in range(2):
        for ours, theirs in zip(*streams, strict=True):
            assert ours.features.equal(theirs.features)
            assert ours.indices.equal(theirs.indices)
        assert bool(asked) == (epoch == 0)
        asked.clear()
    remote.close()
    with LevelReader(opened(url, tmp_path / "here"), 0) as again:
        np.testing.assert_array_equal(again.sample(7), maps[7])
    assert not asked


def test_neighbours_share_a_request_and_nothing_else_is_fetched(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LevelReader(opened(url, tmp_path / "here"), 0) as reader:
        asked = requests(monkeypatch)
        reader.require_whole([2, 3, 4, 12])
        num_bytes = int(np.prod(SHAPE)) * 2
        assert sorted((start, size) for _, start, size in asked) == [
            (2 * num_bytes, 3 * num_bytes),
            (4 * num_bytes, num_bytes),
        ]


def test_large_sample_comes_by_several_requests(
    url: str, tmp_path: Path, maps: list[NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.remote.held_level.PART_BYTES", 10_000)
    with LevelReader(opened(url, tmp_path / "here"), 0) as reader:
        asked = requests(monkeypatch)
        reader.require_whole([5])
        assert sorted(size for *_, size in asked) == [4576, 10_000, 10_000]
        np.testing.assert_array_equal(reader.sample(5), maps[5])


@in_each_container
def test_copies_stay_within_their_bound_and_what_is_read_is_right(
    url: str, tmp_path: Path, maps: list[NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.reading.epoch_tiles.BLOCK_BYTES", 1)  # a batch after another
    bound = 8 * int(np.prod(SHAPE)) * 2
    copy = opened(url, tmp_path / "here", max_bytes=bound)
    small = num_bytes_held(copy)
    with LevelReader(copy, 0) as reader:
        indexes = num_bytes_held(copy) - small
        for _ in range(3):
            for batch in LevelStream(reader, batch_size=2, crop=None, seed=0):
                for row, index in enumerate(batch.indices.tolist()):
                    here = batch.features[row].permute(1, 2, 0).numpy()
                    np.testing.assert_array_equal(here, maps[index])
            assert num_bytes_held(copy) - small - indexes <= bound


def test_bound_below_what_is_read_at_once_is_one_line(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LevelReader(opened(url, tmp_path / "here", max_bytes=1), 0) as reader:  # noqa: SIM117
        with pytest.raises(MachineError, match=r"--local-cache-gb 1e-09: too little for what"):
            reader.require_whole(range(20))


def test_another_process_takes_room_while_samples_are_copied(
    url: str, tmp_path: Path, maps: list[NDArray[Any]]
) -> None:
    copy = opened(url, tmp_path / "here")
    with LevelReader(copy, 0) as reader, LevelReader(copy, 0) as other:
        held = other._remote._shards[0]  # type: ignore[union-attr]
        seen = []

        def read() -> None:
            if not seen:
                held.drop(3)
            start = int(reader.starts[3])
            seen.append(reader.values[start : start + maps[3].size].reshape(SHAPE).copy())

        reader.copied([3], read)
        assert len(seen) == 2
        assert not seen[0].any()
        np.testing.assert_array_equal(seen[1], maps[3])


def test_sample_that_comes_damaged_is_asked_for_once_more(
    url: str, tmp_path: Path, maps: list[NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LevelReader(opened(url, tmp_path / "here"), 0) as reader:
        asked = requests(monkeypatch)
        real = RemoteFolder.get_range

        def damaged(self: RemoteFolder, name: str, start: int, num_bytes: int) -> memoryview:
            content = bytearray(real(self, name, start, num_bytes))
            content[100] ^= len(asked) == 1
            return memoryview(content)

        monkeypatch.setattr(RemoteFolder, "get_range", damaged)
        np.testing.assert_array_equal(reader.sample(9), maps[9])
        assert len(asked) == 2


def test_sample_that_is_damaged_in_the_store_is_one_line(url: str, tmp_path: Path) -> None:
    copy = opened(url, tmp_path / "here")
    shard = next(
        name for name in RemoteFolder(f"{url}/small").sizes() if name.endswith("c.0.0.0.0")
    )
    content = bytearray(RemoteFolder(f"{url}/small").get(shard))
    content[5] ^= 1
    RemoteFolder(f"{url}/small").put(shard, bytes(content))
    with LevelReader(copy, 0) as reader:
        with pytest.raises(
            CacheError, match=rf"{shard}: sample 0 is damaged: remove this object, and run"
        ):
            reader.sample(0)
        reader.sample(1)


def test_missing_shard_is_one_line(url: str, tmp_path: Path) -> None:
    names = RemoteFolder(f"{url}/small").sizes()
    shard = next(name for name in names if name.endswith("c.1.0.0.0"))
    RemoteFolder(f"{url}/small").delete([shard])
    with pytest.raises(CacheError, match=f"small/{shard}: missing: the cache is incomplete"):
        LevelReader(opened(url, tmp_path / "here"), 0)


def test_shard_that_was_replaced_in_the_store_is_read_anew(
    url: str, tmp_path: Path, maps: list[NDArray[Any]]
) -> None:
    with LevelReader(opened(url, tmp_path / "here"), 0) as reader:
        np.testing.assert_array_equal(reader.sample(0), maps[0])
    RemoteFolder(f"{url}/small").delete(RemoteFolder(f"{url}/small").sizes())
    send_maps(url, tmp_path / "sender", maps[::-1])
    with LevelReader(opened(url, tmp_path / "here"), 0) as reader:
        np.testing.assert_array_equal(reader.sample(0), maps[-1])


def test_what_a_power_cut_lost_is_fetched_again(
    url: str, tmp_path: Path, maps: list[NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = opened(url, tmp_path / "here")
    with LevelReader(copy, 0) as reader:
        reader.require_whole([0, 1])
    shard = next(copy.rglob("c.0.0.0.0"))
    with shard.open("r+b") as file:
        file.write(bytes(100))
    monkeypatch.setattr("data.remote.held_shard._boot", lambda: "another")
    with LevelReader(copy, 0) as reader:
        asked = requests(monkeypatch)
        for index in (0, 1):
            np.testing.assert_array_equal(reader.sample(index), maps[index])
        assert len(asked) > 0
