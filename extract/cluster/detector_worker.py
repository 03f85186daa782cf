"""What a worker of a cluster does: holds one detector, and stores the units that it is given."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.errors import ConfigError, MachineError
from configs.schema.data import DetectorConfig
from data.cache.manifest import Manifest
from data.cache.plan import Unit
from data.images.image_sets import read_image
from data.system.seen_folders import enter_folder, is_seen
from data.writing.handed_out import PartFiles, UnitDone, UnitDue
from data.writing.handed_over import BytesOfUnits, ImageBytes
from extract.detector.loading import load_detector
from extract.features.busy_times import BusyTimes
from extract.features.extraction import writing_threads
from extract.features.maps import Maps
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
    sign: str
    """A file in the cache: who sees it writes there. Absolute, or of the working folder."""


class DetectorWorker:
    """Made anew, and started again, where it died: it knows nothing that others do not."""

    def __init__(self, job: WorkerJob) -> None:
        self._job = job
        self._model: Any = None
        self._manifest: Manifest | None = None
        self._writes = False

    def start(self, manifest: Manifest) -> tuple[str, bool]:
        """Load the detector; return this machine's name, and whether it sees the cache.

        Raises ConfigError if it does not see the images, or has no such detector.
        """
        job, host = self._job, socket.gethostname()
        enter_folder(job.working_folder)
        torch.set_num_threads(job.num_cores)
        try:
            read_image(manifest.samples[0].file)
            detector = load_detector(job.detector, job.device)
        except ConfigError as error:  # the command has met none: it is this node's
            raise ConfigError(
                f"on the node {host}: {error} (all nodes need images and checkpoint under the same "
                "paths)"
            ) from error
        if detector.weights_sha256 != job.weights_sha256:
            raise ConfigError(
                f"detector: the node {host} has other weights of it: all nodes need the same "
                "detector.checkpoint"
            )
        self._model, self._manifest, self._writes = detector.model, manifest, is_seen(job.sign)
        return host, self._writes

    def store(self, due: Sequence[UnitDue]) -> Iterator[UnitDone | ImageBytes]:
        """Compute units and write them; yield each once it is on the disk.

        Where the cache is not seen, what is to be written of each image is yielded before. None if
        this worker was made anew meanwhile, and not started. Raises ConfigError for an image that
        cannot be read, CacheError if the plan does not hold, MachineError if the disk fails.
        """
        if self._manifest is None:
            return
        job, manifest, units = self._job, self._manifest, [each.unit for each in due]
        batches = computed_maps(
            self._model, manifest, units, batch_size=job.batch_size,
            num_workers=job.num_decoding, busy=BusyTimes(),
        )  # fmt: skip
        kind = PartFiles if self._writes else BytesOfUnits
        try:
            with closing(kind(manifest, due, num_threads=writing_threads(self._model))) as storing:
                write: Callable[[Unit, Maps], Sequence[UnitDone | ImageBytes]] = storing.write
                with closing(written(batches, write)) as stored:
                    for _, found in stored:
                        # Ray sends to what it iterates, which a list cannot take.
                        for each in found:  # noqa: UP028
                            yield each
        except OSError as error:
            raise MachineError(
                f"{error.filename or Path(job.sign).parent}: cannot be written on the node "
                f"{socket.gethostname()} ({error.strerror or error}): nothing committed is lost, "
                "mend it and run the same command again"
            ) from error
