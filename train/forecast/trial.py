"""What a step and a validation of a run cost: some real steps on the cache; nothing is written."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from configs.schema.training import ContextConfig
from data.reading.level_reader import LevelReader
from data.reading.level_stream import Batch
from data.reading.whole_maps import whole_map_batches
from train.codecs.fused_pyramid import FusedPyramid
from train.codecs.layers.context_path import Context
from train.codecs.level_codec import LevelCodec
from train.context.beside import as_read
from train.loop.feeding import BatchRequest, batches_of
from train.loop.job import Caches, Job, make_codec, make_stream, open_caches
from train.loop.loss_watch import LossWatch
from train.loop.session import new_session
from train.loop.steps import Step
from train.machine.automatic import autocast_dtype, choose_precision
from train.machine.distributed import ALONE
from train.objective.catalogue import distortions

_TIMED_S = 2.0
_MOST_STEPS = 32
_WARM_UP = {"cpu": 1, "cuda": 6}
"""Steps before those that are timed; on a GPU some are computed before one is recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """Of one run. Bytes are of the level, or levels, that it trains, without a context."""

    step_s: float
    steps_per_epoch: int
    step_bytes: float
    """Of features that a step takes, as they are stored; mean."""
    validation_s: float
    """Of one validation of the whole val split."""
    train_bytes: int
    """Of all maps of the train split, at these levels."""
    val_bytes: int


def step_cost(job: Job) -> StepCost:
    """Take some steps of a job whose settings are settled, and code some maps of its val split.

    A context need not be there yet: maps of zeros stand in, which cost the same. Raises what
    `open_caches` and training do.
    """
    context = job.config.model.context
    training = job.config.training.model_copy(
        # To load a level, to decode a context and to compile take minutes, once a run.
        update={"context": [], "resident": "never", "compile": False}
    )
    job = replace(job, config=job.config.model_copy(update={"training": training}))
    blank = as_read if context is None else _blank(context, job.device)
    with open_caches(job) as caches:
        codec = make_codec(job, caches)
        chosen = training.precision
        precision = choose_precision(job.device)[0] if chosen == "auto" else chosen
        codec.autocast_dtype = autocast_dtype(precision)
        step_s, steps_per_epoch, step_bytes = _steps(job, caches, codec, blank)
        return StepCost(
            step_s=step_s,
            steps_per_epoch=steps_per_epoch,
            step_bytes=step_bytes,
            validation_s=_validation_s(job, caches, codec, blank),
            train_bytes=_bytes_of(caches.train),
            val_bytes=_bytes_of(caches.val),
        )


InContext = Callable[[Batch], Batch]


def _steps(
    job: Job, caches: Caches, codec: LevelCodec, blank: InContext
) -> tuple[float, int, float]:
    """Return the seconds of a step, how many an epoch has, and the bytes that one takes."""
    settings = job.config.training
    stream = make_stream(job, caches, ALONE)
    beside = blank if blank is not as_read else caches.beside.in_context
    session = new_session(codec, codec, stream, job.config, job.device, beside)
    codec.train()
    step = Step(
        session, settings, caches.levels, distortions(job.config, caches.train, job.device),
        LossWatch(caches.train, job.device), ALONE,
    )  # fmt: skip
    warm_up = _WARM_UP[torch.device(job.device).type]
    seconds, num_steps, num_bytes, start = 0.0, 0, 0, 0.0
    wanted = BatchRequest(stream, Path(), beside)
    epochs = itertools.chain.from_iterable(
        batches_of(wanted, job.device) for _ in itertools.count()
    )
    for number, given in enumerate(epochs):
        if number == warm_up:
            _finish(job.device)
            start = time.perf_counter()
        step(given.batch, given.x)
        session.progress.step += 1
        if number < warm_up:
            continue
        num_steps += 1
        maps = (given.batch.features, *(given.batch.beside if blank is as_read else ()))
        num_bytes += sum(each.nbytes for each in maps)
        _finish(job.device)
        seconds = time.perf_counter() - start
        if seconds > _TIMED_S or num_steps == _MOST_STEPS:
            break
    return seconds / num_steps, len(stream), num_bytes / num_steps


@torch.inference_mode()
def _validation_s(job: Job, caches: Caches, codec: LevelCodec, blank: InContext) -> float:
    """Return the seconds of a validation, from as many positions as `_TIMED_S` allow."""
    codec.eval()
    total = 0.0
    is_fused = isinstance(codec, FusedPyramid)
    for row, reader in enumerate(caches.val[:1] if is_fused else caches.val):
        codec.use_level(row)
        seconds, positions = 0.0, 0
        all_positions = int(reader.shapes[:, :2].prod(axis=1).sum())
        maps = whole_map_batches(reader, job.config.training.batch_size, None, caches.beside.val)
        for number, batch in enumerate(maps):
            x = [each.to(job.device).float() for each in (batch.features, *batch.beside)]
            seen = Context.of(blank(batch).beside, job.device) if blank is not as_read else None
            start = time.perf_counter()
            _forward(codec, x, seen)
            _finish(job.device)
            if number == 0 and len(batch.indices) < reader.num_samples:
                continue  # the first also warms things up
            seconds += time.perf_counter() - start
            positions += batch.batch_positions
            if seconds > _TIMED_S:
                break
        total += seconds * all_positions / positions
    return total


def _forward(codec: LevelCodec, maps: list[Tensor], seen: Context | None) -> None:
    if isinstance(codec, FusedPyramid):
        codec(maps)
    elif seen is None:
        codec(maps[0])
    else:
        codec(maps[0], context=seen)


def _blank(size: ContextConfig, device: str) -> InContext:
    """Return what gives a batch a context of zeros."""

    def given(batch: Batch) -> Batch:
        count, _, height, width = batch.features.shape

        def zeros(num_channels: int, stride: int) -> Tensor:
            shape = (count, num_channels, -(-height // stride), -(-width // stride))
            made = torch.zeros(shape, device=device)
            return made.contiguous(memory_format=torch.channels_last)

        beside = (
            zeros(size.num_channels, size.stride),
            zeros(size.trail_channels, size.trail_stride),
        )
        return replace(batch, beside=beside)

    return given


def _bytes_of(readers: list[LevelReader]) -> int:
    return sum(int(each.shapes.prod(axis=1).sum()) * each.dtype.itemsize for each in readers)


def _finish(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
