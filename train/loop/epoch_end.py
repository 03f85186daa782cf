"""What follows each epoch: validation, records, the best model, the schedule, reasons to stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from configs.schema.config import Config
from data.reading.level_reader import LevelReader
from data.reading.whole_maps import whole_map_batches
from train.codecs.fused_pyramid import FusedPyramid
from train.loop.job import Caches
from train.loop.loss_watch import DivergedError, rate_collapsed, warn_of_collapse
from train.loop.session import Session, step_scheduler
from train.loop.validation import Validation, mean_validation, validate, validate_pyramid
from train.machine.distributed import World
from train.machine.interruption import clear_out_of_memory
from train.objective.catalogue import level_weights, weights_of
from train.objective.rate_distortion import AnyDistortion, MapDistortion
from train.runs.metrics import (
    EpochMetrics,
    RunLog,
    analyse_samples,
    quantile_spread,
    read_rows,
    write_diagnostics,
    write_rows,
    write_summary,
)
from train.runs.run_record import ALL_DONE, RunRecord

log = logging.getLogger(__name__)

LEVELS_NAME = "validation_levels.csv"
_LEVELS_HEADER = ("epoch", "level", "val_loss", "val_mse", "val_bpp")


class EpochEnd:
    """Ends the epochs of one run; all ranks validate, the one that writes writes."""

    def __init__(
        self, folder: Path, session: Session, config: Config, record: RunRecord, caches: Caches,
        distortions: Sequence[AnyDistortion], world: World,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._session = session
        self._config = config
        self._record = record
        self._caches = caches
        self._world = world
        self._weights = _weights(config, session, len(caches.levels))
        self.distortions = distortions
        """Of each level's train cache."""
        self._of_val = [
            each.of_cache(reader) if isinstance(each, MapDistortion) else each
            for each, reader in zip(distortions, caches.val, strict=True)
        ]
        self._log: RunLog | None = None
        if world.writes:
            self._log = RunLog(folder, kept=session.progress.epoch - 1)
            self._fixed = range(min(config.validation.num_samples, caches.val[0].num_samples))

    def close_epoch(
        self, trained: dict[str, float], between_batches: Callable[[], None] = lambda: None
    ) -> bool:
        """Validate if it is due, record, and begin the next epoch; say if this one was the best.

        `between_batches` is called while it validates and may raise: nothing has changed till then.
        """
        config, progress, epoch = self._config, self._session.progress, self._session.progress.epoch
        parts = None
        # The one that closes a run steers nothing: with more epochs it would not have been.
        steers = epoch % config.validation.interval == 0
        if steers or epoch == config.training.epochs:
            parts = self._validate(between_batches)
        result = None if parts is None else mean_validation(parts, self._weights)
        metrics = EpochMetrics(
            epoch=epoch,
            val_loss=result.loss if result else None,
            val_mse=result.mse if result else None,
            val_bpp=result.bpp if result else None,
            learning_rate=self._session.optimizer.param_groups[0]["lr"],
            **trained,
        )
        if self._log is not None:
            self._log.add(metrics)
            level, lmbda = self._record.level, self._record.lmbda
            log.info("level %s, lambda %g, %s", level, lmbda, metrics.line())
        if result is not None and not math.isfinite(result.loss):
            raise DivergedError(
                f"level {self._record.level}: the validation loss became nan or infinite in epoch "
                f"{epoch}: the checkpoints in {self._folder} are of before it; lower "
                "training.learning_rate"
            )
        improved = False
        if parts is not None and result is not None:
            self._write_diagnostics(metrics, parts, result)
            improved = self._compare(metrics, result.loss, steers)
        step_scheduler(self._session, config, result.loss if result and steers else None)
        progress.epoch, progress.step = epoch + 1, 0
        progress.epoch_seconds = progress.epoch_waited = 0.0
        self._session.sums.zero_()
        return improved

    def reason_to_stop(self) -> str | None:
        """Return why the run is finished, or None."""
        progress, settings = self._session.progress, self._config.training
        if settings.early_stopping.enabled and progress.stale >= settings.early_stopping.patience:
            return f"no progress in {progress.stale} validations"
        return ALL_DONE if progress.epoch > settings.epochs else None

    def summarise(self) -> None:
        """Write training_summary.txt."""
        best = self._session.progress.best
        if self._world.writes:
            write_summary(
                self._folder,
                record=self._record,
                best=None if best is None else EpochMetrics(**best),
                facts={
                    "Training Images": self._caches.train[0].num_samples,
                    "Validation Images": self._caches.val[0].num_samples,
                },
            )

    def close(self) -> None:
        """Close the event file."""
        if self._log is not None:
            self._log.close()

    def _validate(self, between_batches: Callable[[], None]) -> list[Validation]:
        codec, settings = self._session.codec, self._config.training
        if isinstance(codec, FusedPyramid):
            finest = self._caches.val[0]
            with clear_out_of_memory(_whole_maps_need_less(finest)):
                return validate_pyramid(
                    codec, finest, settings.batch_size, settings.lmbda, self._session.device,
                    distortions=self._of_val, beside=self._caches.beside.val,
                    between_batches=between_batches,
                )  # fmt: skip
        parts = []
        for row, reader in enumerate(self._caches.val):
            codec.use_level(row)
            with clear_out_of_memory(_whole_maps_need_less(reader)):
                parts.append(
                    validate(
                        codec, reader, settings.batch_size, settings.lmbda, self._session.device,
                        distortion=self._of_val[row], world=self._world,
                        between_batches=between_batches, beside=self._caches.beside.val,
                        in_context=self._caches.beside.in_context,
                    )
                )  # fmt: skip
        return parts

    def _compare(self, metrics: EpochMetrics, loss: float, steers: bool) -> bool:
        """Keep the best loss and early stopping's count; say if this loss is the best."""
        progress, stopping = self._session.progress, self._config.training.early_stopping
        # The best model is simply the best; early stopping asks for a fall of min_delta in all.
        if steers:
            progress.stale += 1
            if loss < progress.progress_loss - stopping.min_delta:
                progress.progress_loss, progress.stale = loss, 0
        improved = loss < progress.best_loss
        if improved:
            progress.best_loss, progress.best = loss, asdict(metrics)
        return improved

    def _write_diagnostics(
        self, metrics: EpochMetrics, parts: list[Validation], result: Validation
    ) -> None:
        if self._log is None:
            return
        session, lmbda = self._session, self._config.training.lmbda
        write_diagnostics(self._folder, metrics, session.codec, result.channel_bits)
        self._log.add_latents(metrics.epoch, result.channel_bits, quantile_spread(session.codec))
        for row, (level, part) in enumerate(zip(self._caches.levels, parts, strict=True)):
            if self._fixed:
                session.codec.use_level(row)
                # A fused pyramid is read as its finest level, with the others beside it.
                is_fused = isinstance(session.codec, FusedPyramid)
                reader = self._caches.val[0 if is_fused else row]
                files = [sample.file for sample in reader.manifest.samples]
                # Read anew: they may be many.
                beside = self._caches.beside
                maps = whole_map_batches(reader, 1, self._fixed, beside.val)
                folder = self._folder / "level_analysis" / f"level_{level}" / f"lambda_{lmbda:g}"
                batches = map(beside.in_context, maps)
                picture = analyse_samples(
                    folder, metrics.epoch, session.codec, batches, files, row=row
                )
                self._log.add_picture(f"features/level_{level}", picture, metrics.epoch)
            if len(parts) > 1:
                self._add_level_row(metrics.epoch, level, part)
            if row == 0 or not isinstance(session.codec, FusedPyramid):
                self._tell_of_collapse(row, part)

    def _tell_of_collapse(self, row: int, part: Validation) -> None:
        settings, collapsed = self._config.training, self._session.progress.collapsed
        reader = self._caches.train[row]
        level = reader.info.index
        if not rate_collapsed(part.bpp):
            collapsed[:] = [each for each in collapsed if each != level]
        elif level not in collapsed:
            collapsed.append(level)
            weights = weights_of(settings, reader)
            warn_of_collapse(reader, settings.lmbda, part.bpp, weights)

    def _add_level_row(self, epoch: int, level: int, part: Validation) -> None:
        path = self._folder / LEVELS_NAME
        before = read_rows(path, len(_LEVELS_HEADER))
        rows = [row for row in before if (int(row[0]), int(row[1])) < (epoch, level)]
        rows.append([str(epoch), str(level), *(f"{v!r}" for v in (part.loss, part.mse, part.bpp))])
        write_rows(path, [_LEVELS_HEADER, *rows])


def _weights(config: Config, session: Session, num_levels: int) -> Sequence[float]:
    """Return what each level counts: as often as it is drawn; in a fused pyramid, all alike."""
    if isinstance(session.codec, FusedPyramid):
        return [1.0] * num_levels
    return level_weights(config, num_levels)


def _whole_maps_need_less(reader: LevelReader) -> str:
    """Say what to do if the memory does not suffice to validate: the batch is not at fault."""
    height, width, channels = max(map(reader.shape, range(reader.num_samples)), key=math.prod)
    return (
        f"level {reader.info.index} is validated on whole maps, of up to {height} x {width} x "
        f"{channels} values, a few at a time: stop what else takes memory (fewer --jobs), lower "
        "model.n_hidden, or extract with a smaller detector.min_size"
    )
