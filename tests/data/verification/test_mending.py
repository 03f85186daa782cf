"""The next run mends what is damaged; readers keep what they read, and a crash loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.cache.commit_log import CommitLog, read_commits
from data.cache.plan import Unit, units_of
from data.reading.level_reader import LevelReader
from data.verification.check import verify_cache
from data.writing.stored_sample import SampleCaster
from data.writing.unit_writer import UnitWriter
from data.writing.writer import CacheWriter
from tests.support.damaged_caches import Damage, delete, extract, flip, images_in
from tests.support.extraction import TinyCache, error_of, shard_bytes


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

    def looking(kind: type, name: str) -> Callable[..., Any]:
        whole = getattr(kind, name)

        def look(*arguments: Any) -> Any:
            result = whole(*arguments)
            for reader, was in zip(readers, mapped, strict=True):
                np.testing.assert_array_equal(reader.files.memory, was)
            moments.append(name)
            return result

        return look

    extract(copied, "--verify")
    steps = ((CacheWriter, "_open_shard"), (UnitWriter, "_write_sample"), (CacheWriter, "_commit"))
    for kind, name in steps:
        monkeypatch.setattr(kind, name, looking(kind, name))
    result = extract(copied)
    assert result.exit_code == 0, result.output
    assert {name for _, name in steps} == set(moments)
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
