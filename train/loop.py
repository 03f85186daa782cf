"""Train a level's codec from its cache: epochs, validation, schedule, stopping, checkpoints."""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from configs.errors import CacheError, ConfigError, UserError
from configs.schema import Config
from data.reader import LevelReader
from data.stream import LevelStream
from data.transfer import on_device
from data.whole_maps import whole_map_batches
from train.checkpoint import BEST_NAME, LAST_NAME, Provenance, make_run_folder, save_checkpoint
from train.codec import LevelCodec, build_codec
from train.diagnostics import (
    EpochMetrics,
    RunLog,
    analyse_samples,
    write_diagnostics,
    write_summary,
)
from train.objective import rate_distortion
from train.validation import validate

log = logging.getLogger(__name__)

Item = TypeVar("Item")


def train_level(
    train_cache: Path, val_cache: Path, level: int, config: Config, *, device: str, save_dir: Path
) -> Path:
    """Train one level at one lambda; return the run's folder.

    Raises CacheError if a cache is missing, incomplete, or the two are of different detectors.
    """
    verify = config.cache.verify
    with (
        LevelReader(train_cache, level, verify=verify) as reader,
        LevelReader(val_cache, level, verify=verify) as val_reader,
    ):
        _check_caches(reader, val_reader, config)
        torch.manual_seed(config.training.seed)
        codec = build_codec(config.model, reader.info.num_channels)
        statistics = reader.statistics
        codec.set_standardisation(statistics.mean, statistics.variance)
        codec.to(device)
        folder = make_run_folder(save_dir, level, config, datetime.now())
        log.info("level %d, lambda %g -> %s", level, config.training.lmbda, folder)
        log.debug("train cache %s: %d images", train_cache, reader.num_samples)
        log.debug("val cache %s: %d images", val_cache, val_reader.num_samples)
        log.debug("settings: %s", config.training)
        run_log = RunLog(folder)
        try:
            _run(codec, reader, val_reader, config, folder, run_log, device)
        finally:
            run_log.close()
    return folder


def _run(
    codec: LevelCodec,
    reader: LevelReader,
    val_reader: LevelReader,
    config: Config,
    folder: Path,
    run_log: RunLog,
    device: str,
) -> None:
    settings, level = config.training, reader.info.index
    optimizer, aux_optimizer = make_optimizers(codec, config)
    schedule = settings.lr_schedule
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=schedule.factor, patience=schedule.patience, min_lr=schedule.min_lr
    )
    on_gpu = device.startswith("cuda")
    stream = LevelStream(
        reader, batch_size=settings.batch_size, crop=settings.crop, seed=settings.seed,
        shuffle=settings.shuffle, keep=2 if on_gpu else 1, pin_memory=on_gpu,
        read_ahead=on_gpu,
    )  # fmt: skip
    provenance = Provenance(
        cache_fingerprint=reader.manifest.fingerprint,
        detector_weights_sha256=reader.manifest.detector["weights_sha256"],
        versions={name: version(name) for name in ("torch", "compressai", "numpy")},
    )
    files = [sample.file for sample in val_reader.manifest.samples]
    fixed = range(min(config.validation.num_samples, val_reader.num_samples))
    fixed_batches = list(whole_map_batches(val_reader, 1, fixed))
    analysis_folder = folder / "level_analysis" / f"level_{level}" / f"lambda_{settings.lmbda:g}"
    best_loss, progress_loss, best, stale, reason = math.inf, math.inf, None, 0, "all epochs done"
    start = time.monotonic()
    for epoch in range(1, settings.epochs + 1):
        stream.set_epoch(epoch - 1)
        trained = _train_epoch(codec, stream, optimizer, aux_optimizer, config, epoch, device)
        result = None
        if epoch % config.validation.interval == 0 or epoch == settings.epochs:
            result = validate(codec, val_reader, settings.batch_size, settings.lmbda, device)
        metrics = EpochMetrics(
            epoch=epoch,
            val_loss=result.loss if result else None,
            val_mse=result.mse if result else None,
            val_bpp=result.bpp if result else None,
            learning_rate=optimizer.param_groups[0]["lr"],
            **trained,
        )
        run_log.add(metrics)
        log.info("level %d %s", level, metrics.line())
        _refuse_nonfinite(metrics, level, folder)
        improved = False
        if result is not None:
            write_diagnostics(folder, metrics, codec, result.channel_bits)
            if fixed_batches:
                analyse_samples(analysis_folder, epoch, codec, fixed_batches, files)
            improved = result.loss < best_loss
            # The best model is simply the best; early stopping asks for a fall of min_delta in all.
            stale += 1
            if result.loss < progress_loss - settings.early_stopping.min_delta:
                progress_loss, stale = result.loss, 0
            if improved:
                best_loss, best = result.loss, metrics
            if schedule.enabled:
                plateau.step(result.loss)
        state = {
            "optimizer": optimizer.state_dict(),
            "aux_optimizer": aux_optimizer.state_dict(),
            "scheduler": plateau.state_dict(),
        }
        common: dict[str, Any] = {
            "level": level, "epoch": epoch, "best_validation_loss": best_loss,
        }  # fmt: skip
        if improved:
            save_checkpoint(folder / BEST_NAME, codec, config, provenance, **common)
        save_checkpoint(
            folder / LAST_NAME, codec, config, provenance, **common, training_state=state
        )
        if settings.early_stopping.enabled and stale >= settings.early_stopping.patience:
            reason = f"no progress in {stale} validations"
            break
    write_summary(
        folder, level=level, lmbda=settings.lmbda, best=best, best_loss=best_loss, last=metrics,
        reason=reason,
        facts={
            "Training Images": reader.num_samples,
            "Validation Images": val_reader.num_samples,
            "Seconds": f"{time.monotonic() - start:.1f}",
            "Device": device,
            "Machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "Seed": settings.seed,
            "Cache Fingerprint": provenance.cache_fingerprint,
            "Versions": ", ".join(f"{k} {v}" for k, v in provenance.versions.items()),
        },
    )  # fmt: skip


def make_optimizers(
    codec: LevelCodec, config: Config
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return Adam for everything but the quantiles, and the quantiles' own Adam."""
    settings = config.training.optimizer
    quantiles = {id(codec.entropy_bottleneck.quantiles)}
    main = [parameter for parameter in codec.parameters() if id(parameter) not in quantiles]
    return (
        torch.optim.Adam(main, lr=config.training.learning_rate, betas=settings.betas),
        torch.optim.Adam(
            [codec.entropy_bottleneck.quantiles],
            lr=settings.aux_learning_rate,
            betas=settings.betas,
        ),
    )


def _train_epoch(
    codec: LevelCodec,
    stream: LevelStream,
    optimizer: torch.optim.Optimizer,
    aux_optimizer: torch.optim.Optimizer,
    config: Config,
    epoch: int,
    device: str,
) -> dict[str, float]:
    """Train on every sample once; return the epoch's means."""
    codec.train()
    settings = config.training
    clip = settings.optimizer.clip_max_norm or math.inf
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sums = torch.zeros(5, device=device)
    start, waited, num_steps = time.perf_counter(), 0.0, 0
    bar = tqdm(
        total=len(stream), desc=f"epoch {epoch}/{settings.epochs}", unit="step", leave=False,
        dynamic_ncols=True, mininterval=0.5, disable=log.getEffectiveLevel() > logging.INFO,
    )  # fmt: skip
    shown = start
    with bar:
        for (batch, x), wait in _timed(on_device(stream, device)):
            waited += wait
            optimizer.zero_grad(set_to_none=True)
            aux_optimizer.zero_grad(set_to_none=True)
            loss, mse, bpp = rate_distortion(codec(x), x, batch.sizes, settings.lmbda)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            aux = codec.aux_loss()
            aux.backward()
            aux_optimizer.step()
            sums += torch.stack([loss.detach(), mse.detach(), bpp.detach(), aux.detach(), norm])
            num_steps += 1
            bar.update()
            now = time.perf_counter()
            if now - shown > 1.0 or num_steps == 1:
                # Reading the sums waits for the device, so it is done about once a second.
                shown = now
                means = (sums / num_steps).tolist()
                log.debug(
                    "step %d: gradient norm %.4f, aux loss %.2f", num_steps, means[4], means[3]
                )
                bar.set_postfix_str(
                    f"loss {means[0]:.3f} mse {means[1]:.3f} bpp {means[2]:.2f} "
                    f"wait {waited / (now - start):.1%}"
                )
    means = (sums / max(1, num_steps)).tolist()
    seconds = time.perf_counter() - start
    names = ("train_loss", "train_mse", "train_bpp", "aux_loss", "gradient_norm")
    return dict(zip(names, means, strict=True)) | {
        "steps_per_s": num_steps / seconds,
        "data_wait_share": waited / seconds,
        "seconds": seconds,
    }


def _timed(items: Iterable[Item]) -> Iterator[tuple[Item, float]]:
    """Yield items with the seconds that the caller waited for each."""
    iterator = iter(items)
    while True:
        start = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item, time.perf_counter() - start


def _check_caches(reader: LevelReader, val_reader: LevelReader, config: Config) -> None:
    mine, theirs = reader.manifest.detector, val_reader.manifest.detector
    for key in ("weights_sha256", "min_size", "max_size", "resize"):
        if mine[key] != theirs[key]:
            raise CacheError(
                f"the caches of {reader.manifest.split} and {val_reader.manifest.split} are of "
                f"different detectors ({key}: {mine[key]} and {theirs[key]}): "
                "extract both with the same settings"
            )
    val_reader.manifest.require_whole_maps()
    expected = config.model.fpn_channels_per_level
    if reader.info.num_channels != expected:
        raise ConfigError(
            f"model.fpn_channels_per_level is {expected}, level {reader.info.index} of the cache "
            f"has {reader.info.num_channels}: set it to that"
        )


def _refuse_nonfinite(metrics: EpochMetrics, level: int, folder: Path) -> None:
    if math.isfinite(metrics.train_loss) and math.isfinite(metrics.val_loss or 0.0):
        return
    kept = f"; the best model so far is in {folder}" if (folder / BEST_NAME).exists() else ""
    raise UserError(f"level {level}: the loss became nan or infinite in epoch {metrics.epoch}: "
                    f"lower training.learning_rate{kept}")  # fmt: skip
