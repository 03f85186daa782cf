"""What a worker of a cluster does: holds one detector, and stores the units that it is given."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from configs.errors import CacheError, ConfigError
from configs.schema.data import DetectorConfig
from data.cache.cache_folder import CacheFolder
from data.cache.manifest import Manifest
from data.writing.handed_out import PartFiles, UnitDone, UnitDue
from extract.detector.loading import load_detector
from extract.features.busy_times import BusyTimes
from extract.features.extraction import writing_threads
from extract.features.pipeline import computed_maps, written


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerJob:
    """What all workers of an extraction are told."""

    detector: DetectorConfig
    weights_sha256: str
    device: str
    num_cores: int
    batch_size: int | None
    num_decoding: int
    working_folder: str
    cache: str
    """Absolute, or relative to the working folder."""
    manifest_sha256: str | None
    """Of manifest.json as the command sees it."""


class DetectorWorker:
    """Made anew, and started again, where it died: it knows nothing that others do not."""

    def __init__(self, job: WorkerJob) -> None:
        self._job = job
        self._model: Any = None
        self._manifest: Manifest | None = None

    def start(self, manifest: Manifest) -> str:
        """Load the detector; return this machine's name.

        Raises ConfigError or CacheError if this machine does not see the files of the command's.
        """
        job, host = self._job, socket.gethostname()
        try:
            os.chdir(job.working_folder)
        except OSError as error:
            raise ConfigError(
                f"{job.working_folder}: cannot be entered on the node {host} ({error.strerror}): "
                "run the command in a folder that all nodes share"
            ) from error
        if CacheFolder(job.cache).manifest_sha256 != job.manifest_sha256:
            raise CacheError(
                f"{job.cache}: the node {host} does not see this cache: put --features on a file "
                "system that all nodes share"
            )
        torch.set_num_threads(job.num_cores)
        detector = load_detector(job.detector, job.device)
        if detector.weights_sha256 != job.weights_sha256:
            raise ConfigError(
                f"detector: the node {host} has other weights of it: put detector.checkpoint on a "
                "file system that all nodes share"
            )
        self._model, self._manifest = detector.model, manifest
        return host

    def store(self, due: Sequence[UnitDue]) -> Iterator[UnitDone]:
        """Compute and write units; yield each once it is on the disk.

        None if this worker was made anew meanwhile, and not started. Raises ConfigError for an
        image that cannot be read, CacheError if the plan does not hold or the file system fails.
        """
        if self._manifest is None:
            return
        job, manifest, units = self._job, self._manifest, [each.unit for each in due]
        batches = computed_maps(
            self._model, manifest, units, batch_size=job.batch_size,
            num_workers=job.num_decoding, busy=BusyTimes(),
        )  # fmt: skip
        try:
            with (
                closing(
                    PartFiles(manifest, due, num_threads=writing_threads(self._model))
                ) as parts,
                closing(written(batches, parts.write)) as stored,
            ):
                for _, done in stored:
                    if done is not None:
                        yield done
        except OSError as error:
            raise CacheError(
                f"{error.filename or job.cache}: cannot be written on the node "
                f"{socket.gethostname()} ({error.strerror or error}): nothing committed is lost, "
                "mend it and run the same command again"
            ) from error
