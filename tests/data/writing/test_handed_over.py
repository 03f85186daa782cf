"""Bytes of units that others compute, and that one process writes, make the usual cache."""

from __future__ import annotations

import errno
import pickle
from contextlib import closing
from pathlib import Path

import pytest

from data.cache.commit_log import CommitLog
from data.cache.manifest import Manifest
from data.cache.plan import Unit
from data.writing.handed_out import UnitDone
from data.writing.handed_over import BytesOfUnits, ImageBytes
from data.writing.writer import CacheWriter
from tests.data.writing.test_handed_out import log_lines, maps_of
from tests.support.extraction import TinyCache, shard_bytes
from tests.support.failing_disk import Moment, failing_disk


def handed_over(
    writer: CacheWriter, manifest: Manifest, unit: Unit, more: float = 0.0
) -> list[ImageBytes | UnitDone]:
    """What a far process yields of a unit, an image at a time."""
    with closing(BytesOfUnits(manifest, [writer.hand_out(unit)], num_threads=2)) as storing:
        maps = maps_of(manifest, unit, more)
        found = [
            each
            for row in range(unit.num_rows)
            for each in storing.write(unit, {level: [x[row]] for level, x in maps.items()})
        ]
    copied: list[ImageBytes | UnitDone] = pickle.loads(pickle.dumps(found))
    return copied


def taken(writer: CacheWriter, unit: Unit, found: list[ImageBytes | UnitDone]) -> bool:
    *images, done = found
    for image in images:
        assert isinstance(image, ImageBytes)
        writer.take_over(unit, image)
    assert isinstance(done, UnitDone)
    return writer.take_back(unit, done)


def test_bytes_that_come_in_any_order_from_the_dead_and_the_living_make_the_same_cache(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    manifest = tiny_cache.manifest
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        manifest.save(folder)
        with CommitLog(folder) as log, closing(CacheWriter(folder, manifest, log)) as writer:
            writer.prepare()
            for unit in writer.pending[::-1]:
                if folder == here:
                    writer.write(unit, maps_of(manifest, unit))
                    continue
                first = handed_over(writer, manifest, unit, more=1.0)[0]
                assert isinstance(first, ImageBytes)
                writer.take_over(unit, first)  # who computed it died then
                assert taken(writer, unit, handed_over(writer, manifest, unit))
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
        log.mark_damaged({1: [3]})
    with CommitLog(tmp_path) as log, closing(CacheWriter(tmp_path, manifest, log)) as writer:
        (unit,) = writer.pending
        images = handed_over(writer, manifest, unit)[:-1]
        assert {tuple(x.samples) for x in images if isinstance(x, ImageBytes)} == {(3,)}
        assert not taken(writer, unit, handed_over(writer, manifest, unit, more=2.0))
        assert taken(writer, unit, handed_over(writer, manifest, unit, more=2.0))
        writer.finish()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("moment", ["open", "write", "sync", "rename"])
def test_disk_that_takes_no_bytes_of_others_loses_nothing_that_was_committed(
    zarr_cache: TinyCache, tmp_path: Path, moment: Moment, number: int
) -> None:
    manifest = zarr_cache.manifest
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        manifest.save(folder)

    def take_all(folder: Path) -> None:
        with CommitLog(folder) as log, closing(CacheWriter(folder, manifest, log)) as writer:
            writer.prepare()
            for unit in writer.pending:
                assert taken(writer, unit, handed_over(writer, manifest, unit))
            writer.finish()

    take_all(here)
    # Of the finest level's last shard: by then units are committed.
    last = max(path.name for path in (here / "level_0.zarr").rglob("c.*"))
    with failing_disk(f"{last}*", moment, number) as disk, pytest.raises(OSError) as told:
        take_all(there)
    assert told.value.errno == number
    assert disk.met >= 1
    committed = log_lines(there)
    take_all(there)
    assert set(committed) <= set(log_lines(there))
    assert shard_bytes(there) == shard_bytes(here)
