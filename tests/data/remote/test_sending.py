from __future__ import annotations

import errno
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.config_files import load_config
from configs.errors import CacheError, MachineError, PassingError
from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest
from data.cache.plan import samples_by_bucket
from data.images.image_sets import load_images
from data.places.object_store import RemoteFolder
from data.reading.level_reader import LevelReader
from data.remote.local_room import LocalRoom
from data.remote.opening import open_copies
from data.remote.sending import sending
from data.writing.settle import settle_cache
from data.writing.writer import CacheWriter
from tests.support.extraction import TinyCache
from tests.support.failing_disk import Moment, meets
from tests.support.remote_caches import opened, send_maps
from tests.support.small_caches import random_maps, write_maps


def go_on(url: str, machine: Path, source: TinyCache, *, most_units: int | None = None) -> int:
    """Write what is missing of a cache as another one has it; return how many units that was."""
    folder = open_copies(url, ["train"], LocalRoom(machine, 10**9), writing=True) / "train"
    manifest = source.manifest
    images = load_images(load_config(str(source.config)).data, "train")
    members = samples_by_bucket(manifest)
    readers = {level.index: LevelReader(source.folder, level.index) for level in manifest.levels}
    with CommitLog(folder) as log:
        settled = settle_cache(folder, manifest, images, log, overwrite=False)
        with (
            sending(folder, manifest) as sender,
            closing(CacheWriter(settled, manifest, log, sender=sender)) as writer,
        ):
            writer.prepare()
            pending = writer.pending
            for unit in pending[:most_units]:
                rows = members[unit.bucket][unit.first_row : unit.first_row + unit.num_rows]
                writer.write(unit, {
                    level: [torch.from_numpy(reader.sample(i).astype(np.float32)) for i in rows]
                    for level, reader in readers.items()
                })  # fmt: skip
            if most_units is None:
                writer.finish()
    return len(pending)


def same_content(url: str, source: TinyCache) -> None:
    remote = RemoteFolder(f"{url}/train")
    there = {name for name in remote.sizes() if not name.startswith("commits/")}
    here = {
        path.relative_to(source.folder).as_posix(): path.read_bytes()
        for path in source.folder.rglob("*")
        if path.is_file() and path.name != "commits.jsonl"
    }
    assert there == here.keys()
    # What casting to float16 did to them says nothing of maps that were of float16 before.
    samples = {name: x for name, x in here.items() if not name.startswith("statistics")}
    assert {name: remote.get(name) for name in samples} == samples


def test_remote_cache_has_the_files_of_a_local_one_and_a_commit_for_each_unit(
    bucket_url: str, zarr_cache: TinyCache, tmp_path: Path
) -> None:
    num_units = go_on(bucket_url, tmp_path, zarr_cache)
    same_content(bucket_url, zarr_cache)
    commits = (RemoteFolder(bucket_url) / "train/commits").sizes()
    assert commits.keys() == {"plan.json", *(f"{unit}.json" for unit in range(num_units))}
    # A finished one is found so, and nothing is sent again.
    assert go_on(bucket_url, tmp_path, zarr_cache) == 0


def test_another_machine_goes_on_with_the_units_that_have_no_commit(
    bucket_url: str, zarr_cache: TinyCache, tmp_path: Path
) -> None:
    num_units = go_on(bucket_url, tmp_path / "first", zarr_cache, most_units=2)
    commits = (RemoteFolder(bucket_url) / "train/commits").sizes()
    num_done = len(commits.keys() - {"plan.json"})
    assert 0 <= num_done <= 2
    assert go_on(bucket_url, tmp_path / "second", zarr_cache) == num_units - num_done
    same_content(bucket_url, zarr_cache)


def test_the_same_machine_goes_on_after_all_that_it_wrote(
    bucket_url: str, zarr_cache: TinyCache, tmp_path: Path
) -> None:
    num_units = go_on(bucket_url, tmp_path, zarr_cache, most_units=2)
    assert go_on(bucket_url, tmp_path, zarr_cache) == num_units - 2
    same_content(bucket_url, zarr_cache)


def test_shard_is_gone_on_with_whose_last_units_have_no_commit(
    bucket_url: str, zarr_cache: TinyCache, tmp_path: Path
) -> None:
    num_units = go_on(bucket_url, tmp_path / "first", zarr_cache)
    # As if the first one had been killed between a shard and the commits of its units.
    RemoteFolder(bucket_url).delete([f"train/commits/{num_units - 1}.json"])
    assert go_on(bucket_url, tmp_path / "second", zarr_cache) == 1
    same_content(bucket_url, zarr_cache)


def test_shard_that_cannot_be_brought_to_be_gone_on_with_is_one_line_and_nothing_is_sent(
    bucket_url: str, zarr_cache: TinyCache, tmp_path: Path
) -> None:
    num_units = go_on(bucket_url, tmp_path / "first", zarr_cache)
    RemoteFolder(bucket_url).delete([f"train/commits/{num_units - 1}.json"])
    before = RemoteFolder(bucket_url).versions()
    moments: tuple[Moment, ...] = ("open", "write", "rename")
    for moment in moments:
        meets(
            "c.*.new", moment, lambda: go_on(bucket_url, tmp_path / "second", zarr_cache),
            MachineError, number=errno.EIO,
        )  # fmt: skip
        assert RemoteFolder(bucket_url).versions() == before
    assert go_on(bucket_url, tmp_path / "second", zarr_cache) == 1
    same_content(bucket_url, zarr_cache)


def test_what_could_not_be_sent_is_sent_by_the_next_run(
    bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = random_maps([(4, 4)] * 20, num_channels=8, seed=0)
    with monkeypatch.context() as patched:
        patched.setattr("data.places.object_store.RETRY_TIME_S", 0.2)
        copy = opened(bucket_url, tmp_path / "here", writing=True)
        patched.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        write_maps(copy, maps)
        with (
            pytest.raises(PassingError, match="run the same command again"),
            sending(copy, Manifest.load(copy)),
        ):
            pass
    opened(bucket_url, tmp_path / "here", writing=True)
    with sending(copy, Manifest.load(copy)):
        pass
    with LevelReader(opened(bucket_url, tmp_path / "there"), 0) as reader:
        np.testing.assert_array_equal(reader.sample(19), maps[19])


def test_another_plan_takes_the_place_of_what_was_there(bucket_url: str, tmp_path: Path) -> None:
    old, new = (random_maps([(4, 4)] * n, num_channels=8, seed=n) for n in (20, 5))
    copy = send_maps(bucket_url, tmp_path / "here", old)
    with LevelReader(opened(bucket_url, tmp_path / "reader"), 0) as reader:
        reader.sample(0)
    for path in (copy / "manifest.json", copy / "commits.jsonl"):
        path.unlink()
    for path in copy.rglob("c.*"):
        path.unlink()
    (RemoteFolder(bucket_url) / "small").delete(["manifest.json"])
    send_maps(bucket_url, tmp_path / "here", new)
    names = (RemoteFolder(bucket_url) / "small").sizes()
    assert "commits/1.json" not in names
    with LevelReader(opened(bucket_url, tmp_path / "reader"), 0) as reader:
        assert reader.num_samples == 5
        np.testing.assert_array_equal(reader.sample(4), new[4])


def test_merged_log_is_the_one_that_was_written_here(bucket_url: str, tmp_path: Path) -> None:
    copy = send_maps(bucket_url, tmp_path / "here", random_maps([(4, 4)] * 90, 8, seed=0))
    log = (copy / "commits.jsonl").read_bytes()
    assert [json.loads(line).get("unit") for line in log.splitlines()] == [None, *range(12)]
    there = opened(bucket_url, tmp_path / "there")
    assert (there / "commits.jsonl").read_bytes() == log


def test_split_that_is_not_there_is_one_line(bucket_url: str, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=rf"{bucket_url}/small: no cache of the split 'small'"):
        opened(bucket_url, tmp_path)


def test_zarr_opens_the_remote_arrays_by_its_own_store(bucket_url: str, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3")
    maps = random_maps([(6, 9)] * 20, num_channels=8, seed=0)
    send_maps(bucket_url, tmp_path, maps)
    level = RemoteFolder(f"{bucket_url}/small/level_0.zarr")
    group = zarr.open_group(zarr.storage.ObjectStore(level.store, read_only=True), mode="r")
    (array,) = (array for _, array in group.arrays())
    np.testing.assert_array_equal(array[:], np.stack(maps))


def test_objects_that_are_no_part_of_a_cache_are_not_copied(
    bucket_url: str, tmp_path: Path
) -> None:
    send_maps(bucket_url, tmp_path / "sender", random_maps([(4, 4)], num_channels=8, seed=0))
    remote = RemoteFolder(f"{bucket_url}/small")
    for name in ("remote.json", "level_0.zarr/link", "other/zarr.json", "annotations/x"):
        remote.put(name, b'{"url": "s3://other/x", "local_cache": "/", "max_bytes": 1}')
    copy = opened(bucket_url, tmp_path / "here")
    assert b"s3://other" not in (copy / "remote.json").read_bytes()
    names = {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    assert not names & {"level_0.zarr/link", "other", "annotations"}
