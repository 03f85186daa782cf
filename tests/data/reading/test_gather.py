"""Tiles by runs, blocks, mapped files: the parts of the stream, against plain slicing."""

from __future__ import annotations

import gc
import mmap
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.reading.epoch_tiles import cut_blocks
from data.reading.order import epoch_order_by_shards
from data.reading.tiles import copy_runs, tile_runs
from data.system.array_files import MappedFiles, is_remote, page_ranges

SIDES = st.integers(1, 9)


@given(
    shapes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5),
    crop=st.one_of(st.none(), st.integers(1, 7)),
    channels=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_tiles_of_any_mix_of_maps_are_slices_padded_by_replication(
    shapes: list[tuple[int, int]], crop: int | None, channels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(h, w, channels)).astype("f4") for h, w in shapes]
    gaps = rng.integers(0, 4, len(maps))
    starts, place = [], 0
    for values, gap in zip(maps, gaps, strict=True):
        starts.append(place + int(gap))
        place = starts[-1] + values.size
    memory = np.full(place + 1, np.nan, dtype="f4")
    for values, start in zip(maps, starts, strict=True):
        memory[start : start + values.size] = values.reshape(-1)
    whole = np.array(shapes)
    sizes = whole if crop is None else np.minimum(whole, crop)
    corners = (rng.random((len(maps), 2)) * (whole - sizes + 1)).astype(np.int64)
    tile = tuple(sizes.max(axis=0).tolist())
    offsets, run = tile_runs(
        np.array(starts), whole[:, 1], corners, sizes, (tile[0], tile[1]), channels
    )
    out = torch.empty(len(maps) * tile[0] * tile[1] * channels)
    copy_runs(torch.from_numpy(memory), offsets, run, out)
    found = out.view(len(maps), *tile, channels).numpy()
    for values, corner, size, tile_found in zip(maps, corners, sizes, found, strict=True):
        (top, left), (h, w) = corner, size
        cropped = values[top : top + h, left : left + w]
        padding = [(0, tile[0] - h), (0, tile[1] - w), (0, 0)]
        np.testing.assert_array_equal(tile_found, np.pad(cropped, padding, mode="edge"))


def test_whole_maps_of_one_width_are_one_run_each_and_crops_one_run_a_row() -> None:
    starts, corners = np.array([0, 60]), np.zeros((2, 2), dtype=np.int64)
    sizes = np.array([[4, 5], [4, 5]])
    assert tile_runs(starts, np.array([5, 5]), corners, sizes, (4, 5), 3)[1] == 4 * 5 * 3
    assert tile_runs(starts, np.array([9, 9]), corners, sizes, (4, 5), 3)[1] == 5 * 3


def test_run_beyond_the_memory_is_an_error_and_no_read() -> None:
    with pytest.raises(IndexError):
        copy_runs(torch.zeros(10), np.array([6]), 5, torch.empty(5))


@given(
    sizes=st.lists(st.tuples(st.sampled_from([2, 3]), st.just(4)), min_size=1, max_size=40),
    batch_size=st.integers(1, 5),
    skipped=st.integers(0, 3),
    value_bytes=st.sampled_from([1, 2**17, 2**24]),
)
def test_blocks_hold_every_batch_once_and_one_shape_each(
    sizes: list[tuple[int, int]], batch_size: int, skipped: int, value_bytes: int
) -> None:
    array = np.array(sizes)
    starts = np.arange(0, len(sizes), batch_size)
    blocks = cut_blocks(
        np.maximum.reduceat(array, starts),
        np.minimum(batch_size, len(sizes) - starts),
        first_batch=skipped,
        value_bytes=value_bytes,
    )
    covered = [n for block in blocks for n in range(block.first, block.last)]
    assert covered == list(range(skipped * batch_size, len(sizes)))
    for block in blocks:
        assert block.first == block.first_batch * batch_size
        assert sum(block.counts) == block.last - block.first
        for start in range(block.first, block.last, batch_size):
            batch = array[start : min(start + batch_size, block.last)]
            assert tuple(batch.max(axis=0)) == block.tile_hw


def test_mapped_files_hold_each_files_bytes_at_its_start(tmp_path: Path) -> None:
    contents = [b"a" * 5000, b"", b"b", bytes(range(256)) * 40]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    files = MappedFiles(paths)
    for start, content in zip(files.starts.tolist(), contents, strict=True):
        assert files.memory[start : start + len(content)].tobytes() == content
    assert files.is_resident(files.starts.tolist()[:1])
    files.prefetch(10, 5000)


def test_view_of_mapped_files_outlives_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"feature" * 1000)
    view = MappedFiles([tmp_path / "file"]).memory[7:14]
    gc.collect()
    assert view.tobytes() == b"feature"


def test_file_that_cannot_be_mapped_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        MappedFiles([tmp_path / "gone"])


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    window=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_order_by_shards_finishes_a_window_of_shards_before_the_next(
    sizes: list[int], window: int, seed: int
) -> None:
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    order = epoch_order_by_shards(shard_of=shard_of, window=window, seed=seed, epoch=1)
    assert sorted(order.tolist()) == list(range(len(shard_of)))
    visited = shard_of[order].tolist()
    seen: list[int] = []
    place = 0
    while place < len(visited):
        group = set()
        while place < len(visited) and (visited[place] in group or len(group) < window):
            group.add(visited[place])
            place += 1
        assert not group & set(seen)
        seen += sorted(group)
    assert sorted(seen) == list(range(len(sizes)))


def test_order_by_shards_mixes_samples_within_a_window_and_differs_by_epoch() -> None:
    shard_of = np.repeat(np.arange(8), 50)
    one = epoch_order_by_shards(shard_of=shard_of, window=4, seed=0, epoch=0)
    two = epoch_order_by_shards(shard_of=shard_of, window=4, seed=0, epoch=1)
    assert one.tolist() != two.tolist()
    assert len(set(shard_of[one][:20].tolist())) == 4


@pytest.mark.parametrize(
    ("folder", "remote"),
    [("/data/nfs/cache", True), ("/data/cache", False), ("/mnt/a b/x", True), ("/x", False)],
)
def test_network_file_systems_are_told_from_local_ones(
    tmp_path: Path, folder: str, remote: bool
) -> None:
    (tmp_path / "mounts").write_text(
        "/dev/sda / ext4 rw 0 0\n/dev/sdb /data ext4 rw 0 0\n"
        "server:/x /data/nfs nfs4 rw 0 0\ns3 /mnt/a\\040b fuse.s3fs rw 0 0\n"
    )
    assert is_remote(Path(folder), tmp_path / "mounts") is remote
    assert not is_remote(Path(folder), tmp_path / "none")


@pytest.mark.parametrize(
    ("point", "written"),
    [
        ("/mnt/données", "/mnt/données"),
        ("/mnt/数据", "/mnt/数据"),
        ("/mnt/a b", "/mnt/a\\040b"),
        ("/mnt/a\tb\\c#d\n", "/mnt/a\\011b\\134c\\043d\\012"),
        ("/mnt/\\303", "/mnt/\\134303"),
        (os.fsdecode(b"/mnt/\xe9"), os.fsdecode(b"/mnt/\xe9")),
    ],
)
def test_mount_point_is_known_by_any_letters(tmp_path: Path, point: str, written: str) -> None:
    """The kernel escapes what would break a line, and leaves all other bytes as they are."""
    lines = f"/dev/sda / ext4 rw 0 0\nserver:/x {written} nfs4 rw 0 0\n"
    (tmp_path / "mounts").write_bytes(os.fsencode(lines))
    assert is_remote(Path(point) / "cache", tmp_path / "mounts")
    assert not is_remote(Path(f"{point}2"), tmp_path / "mounts")


def test_mapped_files_cannot_be_made_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"feature" * 100)
    for array in (
        memory := MappedFiles([tmp_path / "file"]).memory,
        memory[3:9],
        memory.view("i1"),
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


@given(starts=st.lists(st.integers(0, 100_000), max_size=30), num_bytes=st.integers(1, 10_000))
def test_page_ranges_are_the_pages_of_the_runs_each_once(starts: list[int], num_bytes: int) -> None:
    ranges = page_ranges(np.array(starts, dtype=np.int64), num_bytes)
    page = mmap.PAGESIZE
    expected = {
        number
        for start in starts
        for number in range(start // page, (start + num_bytes - 1) // page + 1)
    }
    found = [n for start, length in ranges for n in range(start // page, (start + length) // page)]
    assert sorted(found) == sorted(expected)
    assert all(one[0] + one[1] < other[0] for one, other in pairwise(ranges)), "joined"


def test_residency_of_a_file_of_somebody_else_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"in memory")
    assert MappedFiles([path]).is_resident([0])
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not MappedFiles([path]).is_resident([0])
