"""Units that others write, in any order, make the cache that one process writes."""

from __future__ import annotations

import fcntl
import os
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.cache.commit_log import FILE_NAME, CommitLog
from data.cache.manifest import Manifest
from data.cache.plan import Unit
from data.verification.check import verify_cache
from data.writing.handed_out import PartFiles, UnitDone
from data.writing.writer import CacheWriter
from tests.support.extraction import TinyCache, shard_bytes
from tests.support.forked import result_of


def maps_of(manifest: Manifest, unit: Unit, more: float = 0.0) -> dict[int, list[Tensor]]:
    """Maps that no two units have alike."""
    return {
        level.index: [
            torch.full(manifest.sample_shape(level.index, unit.bucket), unit.index + row / 8 + more)
            for row in range(unit.num_rows)
        ]
        for level in manifest.levels
    }


def written_elsewhere(writer: CacheWriter, manifest: Manifest, units: list[Unit]) -> None:
    """Write a package as another process would."""
    due = [writer.hand_out(unit) for unit in units]
    with closing(PartFiles(manifest, due, num_threads=2)) as parts:
        for unit in units:
            (done,) = parts.write(unit, maps_of(manifest, unit))
            assert writer.take_back(unit, done)


def log_lines(folder: Path) -> list[bytes]:
    return sorted((folder / FILE_NAME).read_bytes().splitlines())


def test_units_written_elsewhere_in_any_order_make_the_same_cache(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    manifest = tiny_cache.manifest
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        manifest.save(folder)
        with (
            CommitLog(folder) as log,
            closing(CacheWriter(folder, manifest, log)) as writer,
        ):
            writer.prepare()
            units = writer.pending
            if folder == here:
                for unit in units:
                    writer.write(unit, maps_of(manifest, unit))
            else:
                written_elsewhere(writer, manifest, units[1::2])
                written_elsewhere(writer, manifest, units[::2][::-1])
            assert writer.pending == []
            writer.finish()
    assert shard_bytes(there) == shard_bytes(here)
    assert log_lines(there) == log_lines(here)


def test_a_unit_that_comes_out_otherwise_is_written_anew_at_all_levels(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    manifest = zarr_cache.manifest
    manifest.save(tmp_path)
    with CommitLog(tmp_path) as log, closing(CacheWriter(tmp_path, manifest, log)) as writer:
        writer.prepare()
        for unit in writer.pending:
            writer.write(unit, maps_of(manifest, unit))
        writer.finish()
        log.mark_damaged({1: [3]})

    def attempt(writer: CacheWriter, unit: Unit) -> UnitDone:
        with closing(PartFiles(manifest, [writer.hand_out(unit)], num_threads=1)) as parts:
            (done,) = parts.write(unit, maps_of(manifest, unit, more=2.0))
        return done

    with CommitLog(tmp_path) as log, closing(CacheWriter(tmp_path, manifest, log)) as writer:
        (unit,) = writer.pending
        first = attempt(writer, unit)
        assert first.differing == {0, 1, 2, 4}
        assert not writer.take_back(unit, first)
        second = attempt(writer, unit)
        assert second.num_bytes == sum(
            unit.num_rows * manifest.sample_bytes(level, unit.bucket) for level in range(5)
        )
        assert writer.take_back(unit, second)
        writer.finish()
    # What is no shard (annotations, the log's first line) nobody has written here.
    assert not [damage for damage in verify_cache(tmp_path).damages if damage.level is not None]


def is_locked(part: str, num_bytes: int) -> bool:
    handle = os.open(part, os.O_RDWR)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, num_bytes, 0)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@pytest.mark.parametrize("level", [0, 4])
def test_the_places_of_a_unit_are_locked_until_who_has_it_is_done(
    zarr_cache: TinyCache, tmp_path: Path, level: int
) -> None:
    manifest = zarr_cache.manifest
    manifest.save(tmp_path)
    with CommitLog(tmp_path) as log, closing(CacheWriter(tmp_path, manifest, log)) as writer:
        writer.prepare()
        unit = writer.pending[0]
        due = writer.hand_out(unit)
        part, size = due.places[level][0], manifest.sample_bytes(level, unit.bucket)
        with closing(PartFiles(manifest, [due], num_threads=1)):
            assert result_of(is_locked, part, size)
        assert not result_of(is_locked, part, size)
