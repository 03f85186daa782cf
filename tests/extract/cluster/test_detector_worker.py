"""A worker on a machine that does not see the command's files says so before it computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import CacheError, ConfigError
from configs.schema.data import DetectorConfig
from extract.cluster.detector_worker import DetectorWorker, WorkerJob
from tests.support.extraction import TinyCache


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
