"""A worker whose machine does not see the command's files, or cannot write them, says so."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.errors import CacheError, ConfigError
from configs.schema.data import DetectorConfig
from data.cache.commit_log import FILE_NAME, CommitLog
from data.cache.manifest import Manifest
from data.cache.plan import Unit
from data.verification.check import verify_cache
from data.writing.handed_out import UnitDue
from data.writing.writer import CacheWriter
from extract.cluster import detector_worker
from extract.cluster.detector_worker import DetectorWorker, WorkerJob
from tests.support.extraction import TinyCache
from tests.support.failing_disk import Moment, meets


def worker(folder: Path, cache: TinyCache, sha256: str = "") -> DetectorWorker:
    return DetectorWorker(
        WorkerJob(
            detector=DetectorConfig(weights="random"), weights_sha256="", device="cpu", num_cores=1,
            batch_size=None, num_decoding=2, working_folder=str(folder), cache=str(cache.folder),
            manifest_sha256=sha256,
        )
    )  # fmt: skip


def test_a_working_folder_that_a_node_lacks_is_told(zarr_cache: TinyCache, tmp_path: Path) -> None:
    lacking = tmp_path / "gone"
    with pytest.raises(ConfigError, match=f"^{lacking}: cannot be entered on the node .*share$"):
        worker(lacking, zarr_cache).start(zarr_cache.manifest)


def test_a_cache_that_a_node_does_not_see_is_told(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CacheError, match=f"^{zarr_cache.folder}: the node .* does not see this"):
        worker(tmp_path, zarr_cache).start(zarr_cache.manifest)


def test_a_worker_that_was_made_anew_has_nothing_done_until_it_is_started(
    zarr_cache: TinyCache, tmp_path: Path
) -> None:
    assert list(worker(tmp_path, zarr_cache).store([])) == []


def constant_maps(
    _: object, manifest: Manifest, units: Sequence[Unit], **__: object
) -> Iterator[tuple[Unit, dict[int, list[Tensor]]]]:
    for unit in units:
        yield (
            unit,
            {
                level.index: [
                    torch.full(manifest.sample_shape(level.index, unit.bucket), unit.index + 1.0)
                    for _ in range(unit.num_rows)
                ]
                for level in manifest.levels
            },
        )


def test_part_files_that_meet_trouble_are_one_line_and_another_worker_writes_them(
    zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = zarr_cache.manifest
    manifest.save(tmp_path)
    monkeypatch.setattr(detector_worker, "computed_maps", constant_maps)

    def store(due: list[UnitDue]) -> None:
        its = worker(tmp_path, zarr_cache)
        its._model, its._manifest = torch.nn.Linear(1, 1), manifest
        for done in its.store(due):
            assert writer.take_back(units[done.unit], done)

    with CommitLog(tmp_path) as log, closing(CacheWriter(tmp_path, manifest, log)) as writer:
        writer.prepare()
        units = {unit.index: unit for unit in writer.pending}
        first, *others = [writer.hand_out(unit) for unit in writer.pending]
        store([first])
        before = (tmp_path / FILE_NAME).read_bytes()
        moments: tuple[Moment, ...] = ("open", "write", "sync")
        for moment, number in product(moments, (errno.ENOSPC, errno.EIO)):
            line = meets("c.*.part", moment, lambda: store(others), CacheError, number=number)
            assert "cannot be written on the node" in line
            assert line.endswith(
                "nothing committed is lost, mend it and run the same command again"
            )
            assert (tmp_path / FILE_NAME).read_bytes() == before
        store(others)
        writer.finish()
    # What is no shard (annotations, the log's first line) nobody has written here.
    assert not [damage for damage in verify_cache(tmp_path).damages if damage.level is not None]
