"""What the benchmarks of training share: a real cache, and a run's parts without its files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.schema.config import Config
from data.cache.manifest import Manifest
from data.images.records import ImageSet
from data.reading.level_stream import Batch
from extract.detector.loading import LoadedDetector
from extract.features.extraction import extract
from tests.benchmarks.scene_images import planned
from train.loop.job import Job, make_codec, make_stream, open_caches
from train.loop.loss_watch import LossWatch
from train.loop.session import Session, new_session
from train.loop.steps import Step
from train.machine.automatic import autocast_dtype, keep_compiled_code
from train.machine.distributed import ALONE
from train.objective.rate_distortion import square_error

RESNET = "fasterrcnn_resnet50_fpn"
CODEC: Mapping[str, Any] = {}  # what differs from the default codec: nothing, but in tests


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainer:
    """One level's codec with all that a training step needs."""

    session: Session
    step: Step

    def __call__(self, batch: Batch, x: Tensor) -> None:
        """Make one step, as train-level does."""
        self.step(batch, x)
        self.session.progress.step += 1


def extracted(
    images: ImageSet, folder: Path, *, device: str = "cpu"
) -> tuple[LoadedDetector, Manifest, float]:
    """Write the images' cache into the folder; return detector, plan and images per second."""
    detector, manifest = planned(RESNET, images, device=device)
    shutil.rmtree(folder, ignore_errors=True)
    done = extract(folder, manifest, images, detector.model, show_progress=False)
    return detector, manifest, done.num_new_images / done.seconds


@contextmanager
def trainer(
    cache: Path,
    level: int,
    *,
    precision: str,
    batch_size: int,
    device: str = "cpu",
    model: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Trainer]:
    """Yield what trains a level, its stream at the beginning.

    `settings` are those of training that are not the default ones.
    """
    training = {"precision": precision, "batch_size": batch_size, **settings}
    config = Config.model_validate({"model": model or CODEC, "training": training})
    job = Job(train_cache=cache, val_cache=cache, level=level, config=config, device=device)
    with open_caches(job) as caches:
        codec = make_codec(job, caches)
        codec.train()
        codec.autocast_dtype = autocast_dtype(precision)
        if config.training.compile is True:  # auto is for runs, which may be long
            keep_compiled_code()
            codec.compile_steps()
        session = new_session(codec, codec, make_stream(job, caches, ALONE), config, device)
        step = Step(
            session, config.training, caches.levels, [square_error],
            LossWatch(caches.train, device), ALONE,
        )  # fmt: skip
        yield Trainer(session=session, step=step)
