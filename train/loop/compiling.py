"""Whether a run's steps are compiled: as its settings say, or as was decided when it began."""

from __future__ import annotations

import logging

from train.loop.job import Caches, Job
from train.loop.session import Session
from train.machine.automatic import choose_compile, keep_compiled_code
from train.machine.distributed import World
from train.runs.run_record import RunRecord

log = logging.getLogger(__name__)

_NUM_LOOKED_AT = 64


def compile_if_worth_it(
    job: Job, session: Session, caches: Caches, record: RunRecord, world: World
) -> None:
    """Compile the session's steps if they are to be; the record says so, and why."""
    settings = job.config.training
    if settings.compile != "auto":
        record.compiled, record.compile_reason = settings.compile, ""
    elif record.compiled is None:
        record.compiled, record.compile_reason = world.from_first(
            lambda: choose_compile(
                session.device,
                num_steps=settings.epochs * len(session.stream),
                step_positions=settings.batch_size * _mean_positions(caches, settings.crop),
            )
        )
    elif record.compiled and not session.device.startswith("cuda"):
        log.info("compile: no: the run was begun on %s", record.device)  # and differs in any case
        return
    if record.compiled:
        keep_compiled_code()
        session.codec.compile_steps()


def _mean_positions(caches: Caches, crop: int | None) -> float:
    """Return the feature positions of a training sample, on average; some samples tell."""
    areas = []
    for reader in caches.train:
        for index in range(0, reader.num_samples, -(-reader.num_samples // _NUM_LOOKED_AT)):
            height, width, _ = reader.shape(index)
            areas.append(min(height, crop or height) * min(width, crop or width))
    return sum(areas) / len(areas)
