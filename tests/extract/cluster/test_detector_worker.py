"""A worker says what its machine lacks before it computes, and hands over what it cannot write."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.config_files import load_config
from configs.errors import ConfigError, MachineError
from data.cache.commit_log import FILE_NAME, CommitLog
from data.cache.manifest import Manifest
from data.cache.plan import Unit
from data.verification.check import verify_cache
from data.writing.handed_out import UnitDone, UnitDue
from data.writing.handed_over import ImageBytes
from data.writing.writer import CacheWriter
from extract.cluster import detector_worker
from extract.cluster.detector_worker import DetectorWorker, WorkerJob
from tests.support.extraction import TinyCache, shard_bytes
from tests.support.failing_disk import Moment, meets


@pytest.fixture
def job(zarr_cache: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerJob:
    """Of a node that does not see the cache."""
    monkeypatch.chdir(tmp_path)
    return WorkerJob(
        detector=load_config(str(zarr_cache.config)).detector,
        weights_sha256=zarr_cache.manifest.detector["weights_sha256"],
        device="cpu", num_cores=torch.get_num_threads(), batch_size=None, num_decoding=2,
        working_folder=str(tmp_path), sign=str(tmp_path / "gone" / "seen"),
    )  # fmt: skip


def with_image(manifest: Manifest, file: str) -> Manifest:
    first, *others = manifest.samples
    return dataclasses.replace(manifest, samples=(dataclasses.replace(first, file=file), *others))


def test_what_a_node_lacks_is_told(zarr_cache: TinyCache, job: WorkerJob) -> None:
    manifest = zarr_cache.manifest

    def start(manifest: Manifest, **changes: Any) -> None:
        DetectorWorker(dataclasses.replace(job, **changes)).start(manifest)

    with pytest.raises(ConfigError, match=r"^--ray: the node .* cannot enter the folder /gone "):
        start(manifest, working_folder="/gone")
    with pytest.raises(ConfigError, match=r"^on the node .*: /gone.jpg: no such"):
        start(with_image(manifest, "/gone.jpg"))
    with pytest.raises(ConfigError, match=r"^on the node .*/gone.pth: .*same paths"):
        start(manifest, detector=job.detector.model_copy(update={"checkpoint": "/gone.pth"}))
    with pytest.raises(ConfigError, match=r"^detector: the node .* has other weights of it"):
        start(manifest, weights_sha256="0" * 64)


def test_a_worker_that_does_not_see_the_cache_hands_its_bytes_over(
    zarr_cache: TinyCache, job: WorkerJob, tmp_path: Path
) -> None:
    manifest = zarr_cache.manifest
    worker = DetectorWorker(job)
    assert worker.start(manifest)[1] is False
    folder = tmp_path / "cache"
    folder.mkdir()
    manifest.save(folder)
    with CommitLog(folder) as log, closing(CacheWriter(folder, manifest, log)) as writer:
        writer.prepare()
        units = {unit.index: unit for unit in writer.pending}
        for found in worker.store([writer.hand_out(unit) for unit in units.values()]):
            if isinstance(found, ImageBytes):
                writer.take_over(units[found.unit], found)
            else:
                assert isinstance(found, UnitDone)
                assert writer.take_back(units[found.unit], found)
        writer.finish()
    expected = shard_bytes(zarr_cache.folder)
    found_bytes = shard_bytes(folder)
    assert {name: expected[name] for name in found_bytes} == found_bytes


def test_a_worker_that_was_made_anew_has_nothing_done_until_it_is_started(job: WorkerJob) -> None:
    assert list(DetectorWorker(job).store([])) == []


def constant_maps(
    _: object, manifest: Manifest, units: Sequence[Unit], **__: object
) -> Iterator[tuple[Unit, dict[int, list[Tensor]]]]:
    for unit in units:
        shapes = {x.index: manifest.sample_shape(x.index, unit.bucket) for x in manifest.levels}
        maps = {level: torch.full(shape, unit.index + 1.0) for level, shape in shapes.items()}
        yield unit, {level: [one] * unit.num_rows for level, one in maps.items()}


def test_part_files_that_meet_trouble_are_one_line_and_another_worker_writes_them(
    zarr_cache: TinyCache, job: WorkerJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, folder = zarr_cache.manifest, tmp_path / "cache"
    folder.mkdir()
    manifest.save(folder)
    monkeypatch.setattr(detector_worker, "computed_maps", constant_maps)

    def store(due: list[UnitDue]) -> None:
        worker = DetectorWorker(job)
        worker._model, worker._manifest = torch.nn.Linear(1, 1), manifest
        worker._writes = True
        for found in worker.store(due):
            assert isinstance(found, UnitDone)
            assert writer.take_back(units[found.unit], found)

    with CommitLog(folder) as log, closing(CacheWriter(folder, manifest, log)) as writer:
        writer.prepare()
        units = {unit.index: unit for unit in writer.pending}
        first, *others = [writer.hand_out(unit) for unit in writer.pending]
        store([first])
        before = (folder / FILE_NAME).read_bytes()
        moments: tuple[Moment, ...] = ("open", "write", "sync")
        for moment, number in product(moments, (errno.ENOSPC, errno.EIO)):
            line = meets("c.*.part", moment, lambda: store(others), MachineError, number=number)
            assert "cannot be written on the node" in line
            assert line.endswith("is lost, mend it and run the same command again")
            assert (folder / FILE_NAME).read_bytes() == before
        store(others)
        writer.finish()
    # What is no shard (annotations, the log's first line) nobody has written here.
    assert not [damage for damage in verify_cache(folder).damages if damage.level is not None]
