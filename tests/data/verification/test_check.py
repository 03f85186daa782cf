"""--verify finds any damage and names it; the next run mends that and nothing else."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result

from configs.errors import CacheError, PassingError
from data.cache.annotations import read_annotations, write_annotations
from data.cache.commit_log import CommitLog, read_commits
from data.cache.containers import STORES
from data.cache.plan import Unit, units_of
from data.cache.units_due import levels_due
from data.reading.level_reader import LevelReader
from data.reading.level_stream import LevelStream
from data.verification.check import verify_cache
from data.verification.damage import mark_damaged
from data.writing.stored_sample import SampleCaster
from data.writing.writer import CacheWriter
from tests.support.extraction import TinyCache, error_of, fingerprints, run_extract, shard_bytes

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

    monkeypatch.setattr("data.verification.damage.CommitLog", refuse)
    error = error_of(extract(copied, "--verify"))
    assert "which cannot be written" in error


def forget(cache: TinyCache, level: int) -> list[Path]:
    """Lose the commit line of the last unit: its shards are visible and to be written again."""
    path = cache.folder / "commits.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    return [cache.shard_files(level)[-1]]


@pytest.mark.parametrize("damage", [flip, delete, forget])
def test_reader_that_has_a_shard_mapped_keeps_its_bytes_while_it_is_mended(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch, damage: Damage
) -> None:
    """What is mended becomes another file; in the old one nobody writes any more."""
    before = shard_bytes(copied.folder)
    readers = [LevelReader(copied.folder, level) for level in range(5)]
    for level in (0, 3):
        damage(copied, level)
    mapped = [reader.files.memory.copy() for reader in readers]
    moments: list[str] = []

    def looking(name: str) -> Callable[..., Any]:
        whole = getattr(CacheWriter, name)

        def look(*arguments: Any) -> Any:
            result = whole(*arguments)
            for reader, was in zip(readers, mapped, strict=True):
                np.testing.assert_array_equal(reader.files.memory, was)
            moments.append(name)
            return result

        return look

    extract(copied, "--verify")
    for name in ("_open_shard", "_write_sample", "_commit"):
        monkeypatch.setattr(CacheWriter, name, looking(name))
    result = extract(copied)
    assert result.exit_code == 0, result.output
    assert {"_open_shard", "_write_sample", "_commit"} == set(moments)
    assert shard_bytes(copied.folder) == before
    assert {path.suffix for path in copied.folder.rglob("*")}.isdisjoint({".part", ".new"})


def test_shard_that_is_mended_stays_readable_by_others_until_the_new_one_is_whole(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a coarse shard, of several units, the whole ones lie in the part file meanwhile."""
    (path,) = flip(copied, 3)
    damaged = path.read_bytes()
    extract(copied, "--verify")

    def commit(*_: object) -> None:
        assert path.read_bytes() == damaged
        raise RuntimeError("the lights went out")

    with monkeypatch.context() as dark:
        dark.setattr(CacheWriter, "_commit", commit)
        assert str(extract(copied).exception) == "the lights went out"
    part = path.with_name(f"{path.name}.part")
    assert part.stat().st_ino != path.stat().st_ino
    # What was whole before counts as whole in the part file: only the damaged unit is computed.
    assert "train: 8 images" not in extract(copied).output
    assert not part.exists()
    assert verify_cache(copied.folder).damages == []


def test_shard_of_which_nothing_is_left_never_passes_for_whole_after_a_crash(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three units one is due, and then the file is lost: the others' samples went with it."""
    level = 4
    shard = max(copied.shard_files(level), key=lambda path: len(images_in(copied, level, path)))
    per_unit = [
        unit.index
        for unit in units_of(copied.manifest)
        if copied.manifest.buckets[unit.bucket].array_name == shard.parent.name
    ]
    assert len(per_unit) > 2, "one to be written before the crash, and two more"
    with CommitLog(copied.folder) as log:
        log.mark_damaged({per_unit[0]: [level], per_unit[-1]: [level]})
    shard.write_bytes(b"")
    commit, committed = CacheWriter._commit, []

    def once(writer: CacheWriter, unit: Unit, progress: Any) -> None:
        if committed:
            raise RuntimeError("the lights went out")
        commit(writer, unit, progress)
        committed.append(unit.index)

    with monkeypatch.context() as dark:
        dark.setattr(CacheWriter, "_commit", once)
        assert str(extract(copied).exception) == "the lights went out"
    assert committed == per_unit[:1]
    assert extract(copied).exit_code == 0
    assert verify_cache(copied.folder).damages == []


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


@pytest.mark.parametrize("number", [errno.EIO, errno.EINTR, errno.ESTALE])
def test_bytes_that_the_system_does_not_give_are_named_and_never_marked_as_damaged(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A bad sector looks like a network disk that has gone away for a moment."""
    path = max(copied.shard_files(4), key=lambda shard: shard.stat().st_size)
    inode, preadv, asked = path.stat().st_ino, os.preadv, []
    before = fingerprints(copied.folder)

    def failing(handle: int, buffers: list[memoryview], offset: int) -> int:
        if os.fstat(handle).st_ino == inode:
            asked.append(offset)
            if offset == min(asked):
                raise OSError(number, os.strerror(number))
        return preadv(handle, buffers, offset)

    with monkeypatch.context() as broken:
        broken.setattr(os, "preadv", failing)
        error = error_of(extract(copied, "--verify"))
        (damage,) = verify_cache(copied.folder).damages
    assert len(asked) > 2, "the others are read all the same"
    assert error.startswith(f"cannot be checked: {copied.folder}: some files could not be read")
    assert (damage.path, damage.samples, damage.is_known) == (path, (), False)
    assert damage.reason.startswith(f"cannot be read ({os.strerror(number)}), nothing is known")
    assert fingerprints(copied.folder) == before
    assert extract(copied, "--verify").exit_code == 0


def test_what_is_damaged_is_marked_beside_what_cannot_be_read(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(copied, 0)
    refused = copied.shard_files(2)[0]
    store = STORES[copied.container]
    shard_offsets = store.shard_offsets

    def too_many(shard: Path, *others: int) -> Any:
        if shard == refused:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return shard_offsets(shard, *others)

    with monkeypatch.context() as busy:
        busy.setattr(store, "shard_offsets", too_many)
        result = extract(copied, "--verify")
    assert error_of(result).startswith(f"damaged: {copied.folder}: ")
    assert f"level 2, {refused}: cannot be read (Too many open files)" in result.output
    marked = {commit.damaged for commit in read_commits(copied.folder).values()}
    assert marked == {frozenset(), frozenset({0})}
    LevelReader(copied.folder, 2).close()


@pytest.mark.parametrize("lock", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_shard_that_another_process_has_open_is_whole(copied: TinyCache, lock: int) -> None:
    """HDF5 locks what it opens, and refuses what somebody else has locked."""
    with copied.shard_files(1)[0].open("rb") as somebody:
        fcntl.flock(somebody, lock)
        assert verify_cache(copied.folder).damages == []
        assert not any(
            levels_due(copied.folder, copied.manifest, read_commits(copied.folder)).values()
        )
        LevelReader(copied.folder, 1).close()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EMFILE, errno.EIO, errno.ENOLCK])
def test_refusal_by_the_system_is_never_a_damaged_shard(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """However the container's library words it, nobody computes anything anew for it."""
    opened = io.open
    text = f"unable to lock file, errno = {number}, error message = '...'"
    kinds = [OSError(number, text), RuntimeError(text)]

    def refuse(file: Any, *rest: Any, **more: Any) -> Any:
        if tiny_cache.container == "hdf5":
            raise kinds[0]
        if Path(file).name.startswith("c."):
            raise OSError(number, os.strerror(number), str(file))
        return opened(file, *rest, **more)

    manifest, commits = tiny_cache.manifest, read_commits(tiny_cache.folder)
    if tiny_cache.container == "hdf5":
        monkeypatch.setattr(h5py, "File", refuse)
    else:
        monkeypatch.setattr(io, "open", refuse)
    for _ in kinds:
        with pytest.raises(PassingError, match=rf"cannot be read \({os.strerror(number)}\)"):
            LevelReader(tiny_cache.folder, 1)
        with pytest.raises(PassingError, match=os.strerror(number)):
            levels_due(tiny_cache.folder, manifest, commits)
        found = verify_cache(tiny_cache.folder).damages
        assert len(found) == sum(len(tiny_cache.shard_files(level)) for level in range(5))
        assert not any(damage.is_known or damage.samples for damage in found)
        kinds.reverse()


@pytest.mark.parametrize("name", ["manifest.json", "commits.jsonl", "annotations.json"])
def test_side_file_that_cannot_be_read_for_now_is_not_damaged_nor_replaced(
    copied: TinyCache, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = fingerprints(copied.folder)
    opened = io.open

    def failing(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if str(file).endswith(name) and "w" not in mode:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return opened(file, mode, *rest, **more)

    with monkeypatch.context() as broken:
        broken.setattr(io, "open", failing)
        for options in (("--verify",), ("--overwrite", "--dtype", "float32")):
            if name == "annotations.json" and "--overwrite" in options:
                continue  # written anew each time
            error = error_of(extract(copied, *options))
            assert not error.startswith("damaged: ")
            assert "(Input/output error)" in error or error.startswith("cannot be checked: ")
    assert fingerprints(copied.folder) == before


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
