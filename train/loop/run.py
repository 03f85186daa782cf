"""Train one codec from its cache: begin a run or go on with one, until a reason to stop."""

from __future__ import annotations

import itertools
import logging
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from configs.errors import ConfigError
from data.system.stop_signals import StopSignals
from train.codecs.level_codec import LevelCodec
from train.loop.beginning import open_folder, refuse_other_kind, take_up
from train.loop.epoch_end import EpochEnd
from train.loop.feeding import BatchRequest, BatchStream, CommonSource, Given, Training, fed_alone
from train.loop.job import Caches, Job, make_codec, make_stream, open_caches
from train.loop.loss_watch import LossWatch, warn_of_large_features, warn_of_small_crop
from train.loop.saver import Saver
from train.loop.session import Session, new_session
from train.loop.steps import train_epoch
from train.machine.distributed import ALONE, World
from train.machine.interruption import (
    TrainingInterruptedError,
    batches_need_less,
    clear_compile_errors,
    clear_disk_errors,
    clear_out_of_memory,
)
from train.objective.catalogue import distortions
from train.objective.rate_distortion import AnyDistortion
from train.runs.run_folder import locked
from train.runs.run_record import ALL_DONE, FUSED

log = logging.getLogger(__name__)

_STEPS_BETWEEN_QUESTIONS = 32


def train_level(
    job: Job,
    *,
    world: World = ALONE,
    stop: StopSignals | None = None,
) -> Path:
    """Train until the run is finished; return its folder.

    Raises CacheError if a cache is missing, incomplete, or another one than the run's; ConfigError
    if settings do not fit; TrainingInterruptedError, after the state has been saved, if a signal
    asks to stop; UserError if the loss is not finite, memory does not suffice, or another process
    trains the run.
    """
    return fed_alone(training(job, world=world, stop=stop), job.device)


def training(
    job: Job,
    *,
    world: World = ALONE,
    stop: StopSignals | None = None,
    source: CommonSource | None = None,
) -> Training:
    """Train as `train_level` does, on what the caller sends for each `BatchRequest`.

    Of runs that follow a common `source` each works with random numbers, a CUDA stream and a
    number of threads of its own: the caller sees to that (`train.machine.own_state`).
    """
    job = job.settled()
    if job.level == FUSED and world.size > 1:
        raise ConfigError("--level fused: is trained in one process: run it without torchrun")
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())  # for the run after this
        stack.enter_context(clear_out_of_memory(batches_need_less(job.config.training)))
        stack.enter_context(clear_compile_errors(job.config.training))
        stop = stop or stack.enter_context(StopSignals())
        ask = partial(_leave_if_asked, stop)
        prepared = world.together(lambda: _prepare(job, stack, world, source, ask))
        caches, codec, weighing = prepared.caches, prepared.codec, prepared.distortions
        session = new_session(
            codec, world.wrap(codec), prepared.stream, job.config, job.device,
            caches.beside.in_context,
        )  # fmt: skip
        folder = world.from_first(lambda: open_folder(job, caches, world))
        world.from_first(lambda: stack.enter_context(locked(folder)))
        stack.enter_context(clear_disk_errors(folder))
        record = take_up(job, folder, session, caches, world)
        log.info("level %s, lambda %g -> %s", job.level, job.config.training.lmbda, folder)
        log.debug("%s: %d images", job.train_cache, caches.train[0].num_samples)
        log.debug("%s: %d images", job.val_cache, caches.val[0].num_samples)
        log.debug("settings: %s", job.config.training)
        saver = Saver(folder, session, job.config, record, caches.levels, world)
        end = EpochEnd(folder, session, job.config, record, caches, weighing, world)
        stack.callback(end.close)
        reason = yield from _run(job, caches, session, saver, end, stop, world)
        saver.save()
        record.finished = reason
        end.summarise()
        if world.writes:
            record.save(folder)  # last: what is finished is never looked at again
    return folder


def _run(
    job: Job, caches: Caches, session: Session, saver: Saver, end: EpochEnd, stop: StopSignals,
    world: World,
) -> Generator[BatchRequest, Given | None, str]:  # fmt: skip
    """Train epoch after epoch; return why it ended."""
    progress = session.progress
    watch = LossWatch(caches.train, session.device)

    steps = itertools.count(1)
    # On a GPU the answer has to be waited for; on a CPU steps are long and the message is not.
    every = 1 if session.device == "cpu" else _STEPS_BETWEEN_QUESTIONS

    def between_steps() -> None:
        # To ask all ranks takes a message, and they have to ask, and to fail, after the same step.
        together = world.size > 1
        if together and next(steps) % every:
            return
        if together or stop.received is not None or saver.is_due:
            watch.look()  # what follows a bad step must not replace the last good checkpoint
        if world.any(stop.received is not None, session.device):
            leave()
        saver.save_if_due()

    def leave() -> None:
        saver.save()
        number = stop.received or signal.SIGTERM
        raise TrainingInterruptedError(
            f"stopped by {signal.Signals(number).name} in epoch {progress.epoch}, after step "
            f"{progress.step}; saved in {saver.folder}: the same command goes on from there",
            number,
        )

    def in_validation() -> None:
        # Ranks have batches of their own number there, and no message between them.
        if world.size == 1 and stop.received is not None:
            leave()

    if (reason := end.reason_to_stop()) not in (None, ALL_DONE) and job.resume is not None:
        log.warning(
            "%s: early stopping has ended it (%s), as it would with any number of epochs: a run "
            "with --set training.early_stopping.enabled=false is another one", job.resume, reason,
        )  # fmt: skip
    while (reason := end.reason_to_stop()) is None:
        trained = yield from train_epoch(
            session, job.config.training, levels=caches.levels, distortions=end.distortions,
            watch=watch, world=world, between_steps=between_steps, folder=saver.folder,
        )  # fmt: skip
        if end.close_epoch(trained, in_validation):
            saver.note_best()
        saver.save_if_due()
    return reason


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    caches: Caches
    codec: LevelCodec
    stream: BatchStream
    distortions: Sequence[AnyDistortion]


def _leave_if_asked(stop: StopSignals) -> None:
    """Raise TrainingInterruptedError if a signal has come; nothing of the run is there yet."""
    if stop.received is not None:
        raise TrainingInterruptedError(
            f"stopped by {signal.Signals(stop.received).name} while the coarser level was decoded: "
            "the same command goes on from there",
            stop.received,
        )


def _prepare(
    job: Job, stack: ExitStack, world: World, source: CommonSource | None, ask: Callable[[], None]
) -> _Prepared:
    """Open and make all that can be refused before processes have to act together."""
    caches = source.caches(job, ask) if source else stack.enter_context(open_caches(job, ask))
    if job.resume is None and job.continues is None:
        # Before the codec is seeded: to look at a checkpoint draws random numbers.
        refuse_other_kind(job, caches)
    for reader in caches.train:
        warn_of_large_features(reader)
    codec = make_codec(job, caches)
    for reader in caches.train[:1] if job.level == FUSED else caches.train:
        warn_of_small_crop(reader, job.config.training.crop, codec.stride)
    codec.input_noise = job.config.training.input_noise
    codec.mixed_quantization = job.config.training.quantization == "mixed"
    if codec.mixed_quantization and not codec.knows_mixed_quantization:
        raise ConfigError(
            f"training.quantization: mixed: the codec {job.config.model.name} does not know it: "
            "let its noisy_latents return for_synthesis(y, noisy, means) and say "
            "knows_mixed_quantization = True, or train it with training.quantization=noise"
        )
    return _Prepared(
        caches=caches,
        codec=codec,
        stream=source.stream(job) if source else make_stream(job, caches, world),
        # Before the run is taken up, with its random numbers: to load a detector draws some.
        distortions=distortions(job.config, caches.train, job.device),
    )
