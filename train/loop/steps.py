"""One epoch of training steps, as fast as the arithmetic: nothing in it waits for the device."""

from __future__ import annotations

import logging
import math
import multiprocessing
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from configs.log_setup import bar_interval_s
from configs.schema.training import TrainingConfig
from data.reading.level_stream import Batch
from train.codecs.fused_pyramid import FusedPyramid
from train.codecs.layers.context_path import Context
from train.codecs.level_codec import LevelCodec
from train.loop.cutmix import cutmix
from train.loop.feeding import BatchRequest, Given
from train.loop.loss_watch import LossWatch
from train.loop.session import Session
from train.machine.distributed import World
from train.objective.pyramid_loss import pyramid_rate_distortion
from train.objective.rate_distortion import (
    AnyDistortion,
    has_padding,
    rate_distortion,
    square_error,
    squared_error_of_whole,
    trained_by,
)

log = logging.getLogger(__name__)

_LOOK_INTERVAL_S = 1.0


def train_epoch(
    session: Session,
    settings: TrainingConfig,
    *,
    levels: Sequence[int],
    distortions: Sequence[AnyDistortion],
    watch: LossWatch,
    world: World,
    between_steps: Callable[[], None],
    folder: Path,
) -> Generator[BatchRequest, Given | None, dict[str, float]]:
    """Train on the rest of the epoch under way; return its means as metrics.csv names them.

    Asks for batch after batch until it is sent None; `folder` is the run's.
    `between_steps` is called after every step and may raise to stop. Raises UserError if the loss
    is not finite.
    """
    progress = session.progress
    if session.epoch_is_trained:
        return _means(session)  # stopped while it was validated
    session.codec.train()
    bar = tqdm(
        total=len(session.stream), initial=progress.step, unit="step", leave=False,
        desc=f"epoch {progress.epoch}/{settings.epochs}", dynamic_ncols=True,
        mininterval=bar_interval_s(),
        # Bars of several processes would overwrite each other.
        disable=not world.writes or multiprocessing.parent_process() is not None
        or log.getEffectiveLevel() > logging.INFO,
    )  # fmt: skip
    minimised = [trained_by(each, progress.epoch) for each in distortions]
    step = Step(session, settings, levels, minimised, watch, world)
    wanted = BatchRequest(session.stream, folder, session.in_context)
    # From the first batch on: in lock-step, runs that are behind may have to catch up before.
    start = looked = 0.0
    with bar:
        while (given := (yield wanted)) is not None:
            if not start:
                looked = time.perf_counter()
                start = looked - given.waited_s - progress.epoch_seconds
            step(given.batch, given.x)
            progress.step += 1
            progress.num_samples += given.batch.batch_rows
            progress.epoch_waited += given.waited_s
            now = time.perf_counter()
            progress.epoch_seconds = now - start
            bar.update()
            if now - looked > _LOOK_INTERVAL_S:
                # Reading the sums waits for the device, so it is done about once a second.
                looked = now
                if world.size == 1:
                    watch.look()  # several ranks look together, between two steps
                _show(bar, session)
            between_steps()
    watch.look()
    return _means(session)


class Step:
    """One step: forward, backward, both optimisers; its figures are added to the session's sums."""

    def __init__(
        self, session: Session, settings: TrainingConfig, levels: Sequence[int],
        distortions: Sequence[AnyDistortion], watch: LossWatch, world: World,
    ) -> None:  # fmt: skip
        self._session = session
        self._lmbda = settings.lmbda
        self._cutmix = settings.cutmix
        self._clip = settings.optimizer.clip_max_norm or math.inf
        self._rows = {level: row for row, level in enumerate(levels)}
        self._distortions = distortions
        self._watch = watch
        self._world = world
        self._parameters = [
            parameter
            for group in session.optimizer.param_groups
            for parameter in group["params"]
        ]  # fmt: skip

    def __call__(self, batch: Batch, x: Tensor) -> None:
        session, codec = self._session, self._session.codec
        row = self._rows[batch.level]
        codec.use_level(row)
        weight, beside = 1.0, batch.beside
        if not len(x):
            # Of a batch of fewer maps than ranks. A map that counts nothing stands in: neither
            # kernels nor code of the user's own have to know what to do with none.
            x, *there = (
                each.new_zeros((1, *each.shape[1:])).contiguous(memory_format=torch.channels_last)
                for each in (x, *beside)
            )
            beside = tuple(there)
            batch, weight = _of_the_first_map(batch, x), 0.0
        if self._world.size > 1:
            codec.noise_share = (batch.first_row, len(x), batch.batch_rows)
        if self._cutmix:
            x, *there = cutmix(
                (x, *beside), batch.sizes, self._cutmix, strides=_strides(codec),
                first_row=batch.first_row, batch_rows=batch.batch_rows,
            )  # fmt: skip
            beside = tuple(there)
        is_whole = not has_padding(batch.sizes, *x.shape[-2:])
        compute = partial(self._computed, row, batch, is_whole, weight)
        if session.graphs is not None and is_whole:
            figures = session.graphs.run(row, (x, *beside), compute)
        else:
            figures = compute(x, *beside)
        # Loss, MSE and BPP are this rank's parts; the sums, which are saved, are of all ranks.
        parts = self._world.add_up(figures[:3])
        session.sums += torch.cat([parts, figures[3:]])
        # Of all ranks, as the norm is: if one loss is not finite, all of them notice.
        self._watch.see(session.progress.step + 1, batch, parts[0] + figures[4])

    def _computed(
        self, row: int, batch: Batch, is_whole: bool, weight: float, x: Tensor, *beside: Tensor
    ) -> Tensor:
        """Make the step; return loss, MSE, BPP, auxiliary loss and gradient norm, float32 [5].

        `weight`: 0 if `x` only stands in for a rank's part of a batch, otherwise 1. `beside`: maps
        and trail of the context, if the codec sees one; the other levels of a fused pyramid.
        """
        session, codec = self._session, self._session.codec
        session.optimizer.zero_grad(set_to_none=True)
        session.aux_optimizer.zero_grad(set_to_none=True)
        loss, mse, bpp = (
            self._of_all_levels(batch, x, *beside)
            if isinstance(codec, FusedPyramid)
            else self._of_a_level(row, batch, is_whole, x, *beside)
        )
        # The ranks' gradients are averaged; each rank's loss is its part of the batch's sum.
        (loss * weight * self._world.size).backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip)
        session.optimizer.step()
        aux = codec.aux_loss()
        if aux.requires_grad:
            aux.backward()  # type: ignore[no-untyped-call]
        session.aux_optimizer.step()
        figures = torch.stack([value.detach() for value in (loss, mse, bpp)]) * weight
        return torch.cat([figures, torch.stack([aux.detach(), norm.detach()])])

    def _of_all_levels(self, batch: Batch, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, MSE and BPP of a fused pyramid."""
        session = self._session
        return pyramid_rate_distortion(
            session.model(maps), maps, batch.sizes, _strides(session.codec), self._lmbda,
            self._distortions,
        )  # fmt: skip

    def _of_a_level(
        self, row: int, batch: Batch, is_whole: bool, x: Tensor, *beside: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return loss, MSE and BPP of a codec of single levels."""
        session, codec = self._session, self._session.codec
        distortion = self._distortions[row]
        if type(codec).forward is not LevelCodec.forward:
            # A forward of one's own is promised that, and takes nothing besides but a context.
            x, *beside_x = (each.float() for each in (x, *beside))
            context = Context.of(beside_x, x.device)
            output = session.model(x) if context is None else session.model(x, context=context)
        else:
            # Measured by the codec, which need not write x_hat to memory for it.
            is_measured = is_whole and distortion is square_error
            measure = squared_error_of_whole if is_measured else None
            output = session.model(x, measure, Context.of(beside, x.device))
        return rate_distortion(
            output, x, batch.sizes, self._lmbda, distortion=distortion,
            positions=batch.batch_positions, batch=batch,
        )  # fmt: skip


def _strides(codec: LevelCodec) -> tuple[int, ...]:
    """Return the strides, in a level's positions, of its maps and of its context's two.

    Of a fused pyramid, those of all its levels.
    """
    if codec.size.pyramid is not None:
        return codec.size.pyramid.strides
    size = codec.size.context
    return (1,) if size is None else (1, size.stride, size.trail_stride)


def _of_the_first_map(batch: Batch, x: Tensor) -> Batch:
    """Return a batch that takes `x`, one map that is all of it, for the corner of sample 0."""
    return replace(
        batch,
        indices=torch.zeros(1, dtype=torch.int64),
        sizes=torch.tensor([x.shape[-2:]]),
        corners=torch.zeros(1, 2, dtype=torch.int64),
    )


def _means(session: Session) -> dict[str, float]:
    """Return the epoch's means."""
    progress = session.progress
    means = (session.sums / max(1, progress.step)).tolist()
    names = ("train_loss", "train_mse", "train_bpp", "aux_loss", "gradient_norm")
    return dict(zip(names, means, strict=True)) | {
        "steps_per_s": progress.step / progress.epoch_seconds,
        "data_wait_share": progress.epoch_waited / progress.epoch_seconds,
        "seconds": progress.epoch_seconds,
    }


def _show(bar: tqdm[Any], session: Session) -> None:
    progress = session.progress
    loss, mse, bpp, aux, norm = (session.sums / progress.step).tolist()
    log.debug("step %d: gradient norm %.4f, aux loss %.2f", progress.step, norm, aux)
    bar.set_postfix_str(
        f"loss {loss:.3f} mse {mse:.3f} bpp {bpp:.2f} "
        f"wait {progress.epoch_waited / progress.epoch_seconds:.1%}"
    )
