"""--verify finds any damage and names it; the next run mends that and nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from configs.errors import CacheError
from data.cache.annotations import read_annotations, write_annotations
from data.cache.commit_log import read_commits
from data.cache.containers import STORES
from data.cache.verification import verify_cache
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from data.writing.stored_sample import SampleCaster
from data.writing.writer import CacheWriter
from tests.support.extraction import TinyCache, error_of, run_extract, shard_bytes

Damage = Callable[[TinyCache, int], list[Path]]


@pytest.fixture
def copied(tiny_cache: TinyCache, tmp_path: Path) -> TinyCache:
    """A cache that a test may damage."""
    folder = tmp_path / "train"
    shutil.copytree(tiny_cache.folder, folder)
    return TinyCache(folder=folder, container=tiny_cache.container, config=tiny_cache.config)


def extract(cache: TinyCache, *options: str) -> Result:
    """Run the command on the cache's own folder and kind."""
    return run_extract(cache.config, cache.folder.parent, "--container", cache.container, *options)


def images_in(cache: TinyCache, level: int, path: Path) -> set[str]:
    """The images whose samples a shard holds, from the manifest alone."""
    manifest = cache.manifest
    digits = "".join(c for c in path.name.split(".")[1 if cache.container == "zarr" else 0])
    number = int("".join(c for c in digits if c.isdigit()))
    (bucket,) = (i for i, b in enumerate(manifest.buckets) if b.array_name == path.parent.name)
    per_shard = manifest.buckets[bucket].samples_per_shard[level]
    return {
        sample.file
        for sample in manifest.samples
        if sample.bucket == bucket and sample.row // per_shard == number
    }


def flip(cache: TinyCache, level: int) -> list[Path]:
    path = cache.shard_files(level)[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))
    return [path]


def truncate(cache: TinyCache, level: int) -> list[Path]:
    path = cache.shard_files(level)[1]
    path.write_bytes(path.read_bytes()[:-1000])
    return [path]


def delete(cache: TinyCache, level: int) -> list[Path]:
    path = cache.shard_files(level)[1]
    path.unlink()
    return [path]


def empty(cache: TinyCache, level: int) -> list[Path]:
    path = cache.shard_files(level)[1]
    path.write_bytes(b"")
    return [path]


def swap(cache: TinyCache, level: int) -> list[Path]:
    """Exchange two shards of one bucket, or of two: the files stay whole, the images do not."""
    one, two = cache.shard_files(level)[:2]
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    return [one, two]


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


@pytest.mark.parametrize(
    ("name", "place"),
    [("statistics_level_1.json", 40), ("commits.jsonl", 40), ("commits.jsonl", 200)],
)
def test_changed_byte_in_a_side_file_is_found_and_mended(
    copied: TinyCache, name: str, place: int
) -> None:
    before = shard_bytes(copied.folder)
    path = copied.folder / name
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    result = extract(copied, "--verify")
    assert result.exit_code == 1
    assert str(path) in result.output
    assert extract(copied).exit_code == 0
    assert extract(copied, "--verify").exit_code == 0
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

    monkeypatch.setattr("data.cache.verification.CommitLog", refuse)
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


def test_mended_commit_log_counts_each_unit_once(copied: TinyCache) -> None:
    flip(copied, 1)
    extract(copied, "--verify")
    assert extract(copied).exit_code == 0
    lines = (copied.folder / "commits.jsonl").read_bytes().splitlines()
    damaged = [json.loads(line) for line in lines if b'"damaged"' in line]
    assert [entry["damaged"] for entry in damaged] == [[1]]
    assert all(not commit.damaged for commit in read_commits(copied.folder).values())
    assert not verify_cache(copied.folder).damages


def test_repair_on_another_machine_that_is_cut_short_is_mended_by_the_next_run(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other bits for a damaged level replace those of all levels; then the lights go out."""
    before = shard_bytes(copied.folder)
    flip(copied, 0)
    assert "damaged" in error_of(extract(copied, "--verify"))
    cast = SampleCaster.cast

    def commit(*_: object) -> None:
        raise RuntimeError("the lights went out")

    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(
            SampleCaster, "cast", lambda caster, computed, level: cast(caster, computed + 1, level)
        )
        elsewhere.setattr(CacheWriter, "_commit", commit)
        assert str(extract(copied).exception) == "the lights went out"
    assert extract(copied, "--verify").exit_code != 0
    assert extract(copied).exit_code == 0
    assert shard_bytes(copied.folder) == before
    assert extract(copied, "--verify").exit_code == 0
    assert not list(copied.folder.rglob("*.part"))


def test_part_file_that_nobody_would_finish_is_computed_again(copied: TinyCache) -> None:
    before = shard_bytes(copied.folder)
    path = copied.shard_files(1)[0]
    path.replace(path.with_name(f"{path.name}.part"))
    assert extract(copied).exit_code == 0
    assert shard_bytes(copied.folder) == before


def test_bad_sector_is_named_and_costs_its_sample_alone(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = max(copied.shard_files(4), key=lambda shard: shard.stat().st_size)
    inode, preadv, asked = path.stat().st_ino, os.preadv, []

    def failing(handle: int, buffers: list[memoryview], offset: int) -> int:
        if os.fstat(handle).st_ino == inode:
            asked.append(offset)
            if offset == min(asked):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(handle, buffers, offset)

    with monkeypatch.context() as broken:
        broken.setattr(os, "preadv", failing)
        (damage,) = verify_cache(copied.folder).damages
    assert len(asked) > 1
    assert damage.path == path
    assert len(damage.samples) == 1
    assert "samples differ from their checksums, or cannot be read (Input/output err" in (
        damage.reason
    )


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


@pytest.mark.parametrize("place", [0.0, 0.1, 0.35, 0.6, 0.85, None])
def test_damaged_manifest_is_found_and_mended_and_nothing_is_computed_again(
    copied: TinyCache, place: float | None
) -> None:
    path = copied.folder / "manifest.json"
    whole = path.read_bytes()
    if place is None:
        path.unlink()
    else:
        at = int(place * len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert "manifest.json: is " in extract(copied, "--verify").output
    result = extract(copied)
    assert result.exit_code == 0, result.output
    assert "images are in" in result.output
    assert path.read_bytes() == whole
    assert extract(copied, "--verify").exit_code == 0


def test_damaged_manifest_of_another_plan_is_refused_and_kept(copied: TinyCache) -> None:
    path = copied.folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-10])
    damaged = path.read_bytes()
    error = error_of(extract(copied, "--dtype", "float32"))
    assert error.startswith(f"{path}: is damaged (")
    assert error.endswith("run extract-features with the settings that it was made with, or with "
                          "--overwrite")  # fmt: skip
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("change", ["digit", "delete", "others"])
def test_damaged_annotations_are_found_and_mended(copied: TinyCache, change: str) -> None:
    path = copied.folder / "annotations.json"
    whole = path.read_bytes()
    if change == "delete":
        path.unlink()
    elif change == "others":
        images = read_annotations(path, "train")
        write_annotations(path, replace(images, records=images.records[1:]))
    else:
        at = whole.index(b'"bbox": [') + len(b'"bbox": [')
        path.write_bytes(
            whole[:at] + (b"1" if whole[at : at + 1] != b"1" else b"2") + whole[at + 1 :]
        )
        with pytest.raises(CacheError, match=r"annotations\.json: damaged \(.*checksum differs"):
            read_annotations(path, "train")
    assert f"{path}: " in extract(copied, "--verify").output
    assert extract(copied).exit_code == 0
    assert path.read_bytes() == whole
    assert extract(copied, "--verify").exit_code == 0
