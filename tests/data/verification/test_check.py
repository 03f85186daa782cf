"""--verify finds any damage and names it; the next run mends that and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from configs.errors import CacheError, PassingError
from data.cache.commit_log import read_commits
from data.cache.containers import STORES
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from data.verification.check import verify_cache
from data.verification.damage import mark_damaged
from tests.support.damaged_caches import (
    Damage,
    delete,
    empty,
    extract,
    flip,
    images_in,
    swap,
    truncate,
)
from tests.support.extraction import TinyCache, error_of, fingerprints, run_extract, shard_bytes


def test_whole_cache_is_said_to_be_whole(copied: TinyCache) -> None:
    before = shard_bytes(copied.folder)
    result = extract(copied, "--verify")
    assert result.exit_code == 0
    assert "train: whole (" in result.output
    num_shards = sum(len(copied.shard_files(level)) for level in range(5))
    assert f"{num_shards} shards" in result.output
    assert shard_bytes(copied.folder) == before


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("damage", [flip, truncate, delete, empty, swap])
def test_damaged_shard_is_named_and_the_next_run_mends_it_alone(
    copied: TinyCache, damage: Damage, level: int
) -> None:
    before = shard_bytes(copied.folder)
    paths = damage(copied, level)
    untouched = {
        path: path.stat().st_mtime_ns
        for n in range(5)
        for path in copied.shard_files(n)
        if path not in paths
    }
    result = extract(copied, "--verify")
    assert "damaged" in error_of(result)
    lines = result.output.splitlines()
    images = set()
    for path in paths:
        (line,) = (line for line in lines if f"level {level}, {path}: " in line)
        affected = images_in(copied, level, path)
        assert any(file in line for file in affected)
        if damage is flip:
            affected = {file for file in affected if file in line}
            assert "1 of " in line
        images |= affected
    with pytest.raises(CacheError, match=r"extract-features --split train again"):
        LevelReader(copied.folder, level)
    LevelReader(copied.folder, 4 - level).close()

    result = extract(copied)
    assert result.exit_code == 0, result.output
    units = set(read_commits(copied.folder))
    assert len(images) <= int(result.output.split("train: ")[1].split()[0]) < 8
    assert units == set(range(len(units)))
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    assert shard_bytes(copied.folder) == before
    assert extract(copied, "--verify").exit_code == 0


def test_run_after_a_truncated_or_deleted_shard_mends_it_without_verify(copied: TinyCache) -> None:
    before = shard_bytes(copied.folder)
    truncate(copied, 0)
    delete(copied, 2)
    assert extract(copied).exit_code == 0
    assert shard_bytes(copied.folder) == before


def test_metadata_that_differs_from_the_manifest_is_found_and_mended(
    copied: TinyCache,
) -> None:
    name = "zarr.json" if copied.container == "zarr" else "README.txt"
    path = sorted(copied.folder.rglob(name))[-1]
    path.write_text(path.read_text().replace("stride_px", "stride"))
    result = extract(copied, "--verify")
    assert f"{path}: missing, or differs from the manifest" in result.output
    assert result.exit_code == 1
    assert extract(copied).exit_code == 0
    assert extract(copied, "--verify").exit_code == 0


def test_unfinished_cache_is_not_called_whole(copied: TinyCache) -> None:
    path = copied.folder / "commits.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    result = extract(copied, "--verify")
    assert "commits.jsonl: images not extracted yet: scene:23:" in result.output
    assert result.exit_code == 1


def test_cache_that_is_not_there_is_one_line(tiny_config: Path, tmp_path: Path) -> None:
    error = error_of(run_extract(tiny_config, tmp_path, "--verify"))
    assert "holds no feature cache: run extract-features --split train" in error


def test_damage_in_a_folder_that_cannot_be_written_is_told_all_the_same(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(copied, 0)

    def refuse(*args: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("data.verification.damage.CommitLog", refuse)
    error = error_of(extract(copied, "--verify"))
    assert "which cannot be written" in error


def test_reader_that_verifies_refuses_a_flipped_byte_on_first_touch(copied: TinyCache) -> None:
    (path,) = flip(copied, 0)
    with LevelReader(copied.folder, 0, verify="size") as trusting:
        assert len(list(LevelStream(trusting, batch_size=4, crop=None, copy=True))) == 2
    with LevelReader(copied.folder, 0, verify="on_open") as reader:
        with pytest.raises(CacheError) as caught:
            list(LevelStream(reader, batch_size=4, crop=8))
        message = str(caught.value)
        assert message.startswith(f"level 0, {path}: 1 of ")
        assert any(file in message for file in images_in(copied, 0, path))
        assert "extract-features --split train --verify" in message


def test_reader_that_verifies_reads_a_whole_cache(tiny_cache: TinyCache) -> None:
    with LevelReader(tiny_cache.folder, 1, verify="on_open") as reader:
        assert len(list(LevelStream(reader, batch_size=4, crop=8))) == 2


def test_verify_is_on_where_the_file_system_is_remote(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(copied, 0)
    LevelReader(copied.folder, 0, verify="auto").sample(3)
    monkeypatch.setattr("data.reading.level_reader.is_remote", lambda folder: True)
    with (
        LevelReader(copied.folder, 0, verify="auto") as reader,
        pytest.raises(CacheError, match="samples are damaged"),
    ):
        for index in range(8):
            reader.sample(index)


def test_damage_found_while_an_extraction_wrote_is_not_marked(copied: TinyCache) -> None:
    flip(copied, 0)
    found = verify_cache(copied.folder)
    assert extract(copied, "--verify").exit_code == 1
    assert extract(copied).exit_code == 0
    before = fingerprints(copied.folder)
    with pytest.raises(PassingError, match="an extraction wrote to it while it was checked"):
        mark_damaged(copied.folder, found)
    assert fingerprints(copied.folder) == before


def test_shard_that_is_cut_while_it_is_checked_is_damaged_and_nothing_dies(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied.shard_files(0)[1]
    store = STORES[copied.container]
    shard_offsets = store.shard_offsets

    def cut_afterwards(shard: Path, *others: int) -> Any:
        offsets = shard_offsets(shard, *others)
        if shard == path:
            os.truncate(path, 100)
        return offsets

    monkeypatch.setattr(store, "shard_offsets", cut_afterwards)
    (damage,) = verify_cache(copied.folder).damages
    assert {copied.manifest.samples[i].file for i in damage.samples} == images_in(copied, 0, path)
