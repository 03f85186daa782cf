"""What a run writes of its epochs: numbers, for programs and for people, and sample pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from configs.given_files import regular
from data.reading.level_stream import Batch
from data.system.atomic_files import encoded, write_atomically
from train.codecs.fused_pyramid import FusedPyramid
from train.codecs.layers.context_path import Context
from train.codecs.level_codec import LevelCodec
from train.objective.rate_distortion import rate_bits
from train.runs.event_threads import quiet_event_threads
from train.runs.run_folder import SUMMARY_NAME
from train.runs.run_record import RunRecord

METRICS_NAME = "metrics.csv"
_DEAD_CHANNEL_BITS = 1e-3  # per latent position; below it a latent channel carries nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """One row of metrics.csv. Losses are distortion + lambda * BPP; None where not validated."""

    epoch: int
    train_loss: float
    train_mse: float
    train_bpp: float
    aux_loss: float
    val_loss: float | None
    val_mse: float | None
    val_bpp: float | None
    learning_rate: float
    gradient_norm: float
    steps_per_s: float
    data_wait_share: float
    seconds: float

    def line(self) -> str:
        """Return the epoch as one line of the log."""
        val = (
            "not validated"
            if self.val_loss is None
            else f"val loss {self.val_loss:.4f} mse {self.val_mse:.4f} bpp {self.val_bpp:.3f}"
        )
        return (
            f"epoch {self.epoch}: loss {self.train_loss:.4f} mse {self.train_mse:.4f} "
            f"bpp {self.train_bpp:.3f} | {val} | lr {self.learning_rate:.1e}, "
            f"{self.steps_per_s:.2f} step/s, data wait {self.data_wait_share:.1%}"
        )


class RunLog:
    """Appends to metrics.csv and TensorBoard of one run folder, from the epoch after `kept` on.

    Rows of later epochs, left by a process that died after its last checkpoint, are taken back.
    """

    def __init__(self, folder: Path, *, kept: int = 0) -> None:
        self._path = folder / METRICS_NAME
        num_columns = len(fields(EpochMetrics))
        rows = [row for row in read_rows(self._path, num_columns) if int(row[0]) <= kept]
        write_rows(self._path, [[field.name for field in fields(EpochMetrics)], *rows])
        # TensorBoard takes names in UTF-8 alone; by its number an open folder has another one.
        self._folder = os.open(folder, os.O_RDONLY)
        is_utf_8 = os.fsencode(folder).decode(errors="ignore") == str(folder)
        name = str(folder) if is_utf_8 else f"/proc/self/fd/{self._folder}"
        quiet_event_threads()
        try:
            self._board = SummaryWriter(name, purge_step=kept + 1)
        except BaseException:
            os.close(self._folder)
            raise

    def add(self, metrics: EpochMetrics) -> None:
        """Record one epoch."""
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerow(
                "" if value is None else value for value in asdict(metrics).values()
            )
        for name, value in asdict(metrics).items():
            if value is not None and name != "epoch":
                self._board.add_scalar(name, value, metrics.epoch)
        self._board.flush()

    def add_latents(self, epoch: int, channel_bits: Tensor, spread: Tensor) -> None:
        """Record the distributions over channels: bits per latent position, quantile spread."""
        self._board.add_histogram("latents/bits", channel_bits, epoch)
        self._board.add_histogram("latents/quantile_spread", spread, epoch)

    def add_picture(self, name: str, picture: NDArray[Any], epoch: int) -> None:
        """Record a picture, uint8 [h, w, 3]."""
        self._board.add_image(name, picture, epoch, dataformats="HWC")

    def close(self) -> None:
        """Close the event file."""
        try:
            self._board.close()
        finally:
            os.close(self._folder)


def write_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file so that it appears whole or not at all."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_atomically(path, text.getvalue().encode())


def read_rows(path: Path, num_columns: int) -> list[list[str]]:
    """Return the whole rows of a CSV file below its header; none if there is no file."""
    if not path.exists():
        return []
    with regular(path).open(newline="") as file:
        rows = list(csv.reader(file))
    return [row for row in rows[1:] if len(row) == num_columns]


def quantile_spread(codec: LevelCodec) -> Tensor:
    """Return how wide each channel of the entropy bottleneck reaches, in latent units, [M or N].

    Of a codec with several, all; of one with none, [0.0].
    """
    quantiles = [each.detach().cpu() for each in codec.aux_parameters()]
    spreads = [each[:, 0, 2] - each[:, 0, 0] for each in quantiles]
    return torch.cat(spreads) if spreads else torch.zeros(1)


def write_diagnostics(
    folder: Path, metrics: EpochMetrics, codec: LevelCodec, channel_bits: Tensor
) -> None:
    """Write training_diagnostics_epoch_<n>.txt; `channel_bits` [M] are bits per latent position."""
    spread = quantile_spread(codec)
    dead = int((channel_bits < _DEAD_CHANNEL_BITS).sum())
    top = torch.argsort(channel_bits, descending=True)[:10].tolist()
    lines = [
        f"Epoch: {metrics.epoch}",
        f"Learning Rate: {metrics.learning_rate:.3e}",
        f"Gradient Norm (mean, before clipping): {metrics.gradient_norm:.4f}",
        f"Auxiliary Loss: {metrics.aux_loss:.3f}",
        f"Steps per Second: {metrics.steps_per_s:.3f}",
        f"Data Wait Share: {metrics.data_wait_share:.4f}",
        "",
        "Latents y (validation split)",
        f"Bits per latent position, all channels: {float(channel_bits.sum()):.4f}",
        f"Dead channels (< {_DEAD_CHANNEL_BITS} bits): {dead} of {len(channel_bits)}",
        f"Quantile spread: min {float(spread.min()):.3f}, median {float(spread.median()):.3f}, "
        f"max {float(spread.max()):.3f} (entropy bottleneck)",
        "Channels with most bits: "
        + ", ".join(f"{channel} ({float(channel_bits[channel]):.3f})" for channel in top),
    ]
    path = folder / f"training_diagnostics_epoch_{metrics.epoch}.txt"
    path.write_bytes(encoded("\n".join(lines) + "\n"))


def write_summary(
    folder: Path, *, record: RunRecord, best: EpochMetrics | None, facts: dict[str, Any]
) -> None:
    """Write training_summary.txt; scripts read its line `Best Validation Loss: 0.1234`."""
    best_loss = math.inf if best is None or best.val_loss is None else best.val_loss
    lines = [
        f"Level: {record.level}",
        f"Lambda: {record.lmbda:g}",
        f"Best Validation Loss: {best_loss:.4f}",
    ]
    if best is not None:
        lines += [
            f"Best Epoch: {best.epoch}",
            f"Best Validation MSE: {best.val_mse:.6f}",
            f"Best Validation BPP: {best.val_bpp:.6f}",
        ]
    lines += [
        f"Epochs Run: {record.epochs}",
        f"Stopped Because: {record.finished}",
        *(f"{name}: {value}" for name, value in facts.items()),
        f"Seconds: {record.seconds:.1f}",
        f"Samples per Second: {record.samples_per_s:.1f}",
        f"Device: {record.device}",
        f"Precision: {record.precision}",
        f"Machine: {record.machine}",
        f"Seed: {record.seed}",
        f"Cache Fingerprint: {record.cache_fingerprints['train']}",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in record.versions.items()),
    ]
    write_atomically(folder / SUMMARY_NAME, encoded("\n".join(lines) + "\n"))


def analyse_samples(
    folder: Path, epoch: int, codec: LevelCodec, batches: Iterable[Batch], files: list[str],
    *, row: int = 0,
) -> NDArray[Any]:  # fmt: skip
    """Write epoch_<n>.json and .png of the fixed val samples; return the picture [h, w, 3].

    Of a fused pyramid, those of its level number `row`; its bits are then those of all levels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = codec.mean.device
    entries, rows = [], []
    for batch in batches:
        x = batch.features.to(device).float()  # half the bytes to a GPU
        with torch.inference_mode():
            if isinstance(codec, FusedPyramid):
                maps = [x, *(each.to(device).float() for each in batch.beside)]
                output = codec(maps)
                x, x_hat = maps[row], output["x_hat"][row]
            else:
                context = Context.of(batch.beside, device)
                output = codec(x) if context is None else codec(x, context=context)
                x_hat = output["x_hat"]
        bits = rate_bits(output["likelihoods"])
        for number, index in enumerate(batch.indices.tolist()):
            original, decoded = x[number], x_hat[number]
            positions = original.shape[-2] * original.shape[-1]
            entries.append({
                "sample": index,
                "file": files[index],
                "bpp": float(bits[number]) / positions,
                "mse": float((original - decoded).square().mean()),
                "norm_ratio": float(decoded.norm() / original.norm().clamp(min=1e-12)),
                "original": _feature_statistics(original),
                "decoded": _feature_statistics(decoded),
            })  # fmt: skip
            rows.append(_picture_row(original.cpu(), decoded.cpu()))
    (folder / f"epoch_{epoch:04d}.json").write_text(json.dumps(entries, indent=1) + "\n")
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0))) for row in rows]
    picture: NDArray[Any] = np.concatenate(padded)
    Image.fromarray(picture).save(folder / f"epoch_{epoch:04d}.png")
    return picture


def _feature_statistics(features: Tensor) -> dict[str, float]:
    return {
        "mean": float(features.mean()),
        "std": float(features.std(correction=0)),
        "min": float(features.min()),
        "max": float(features.max()),
    }


def _picture_row(original: Tensor, decoded: Tensor) -> NDArray[Any]:
    """Original, decoded, difference side by side: RMS over channels, one scale, uint8 [h, w, 3]."""
    maps = [t.square().mean(0).sqrt().numpy() for t in (original, decoded, original - decoded)]
    top = max(float(maps[0].max()), 1e-12)
    from matplotlib import colormaps  # late: an epoch may end long after the first step

    zoom = max(1, 160 // max(maps[0].shape))
    tiles = []
    for values in maps:
        colored = colormaps["viridis"](np.clip(values / top, 0, 1))[..., :3]
        tile = (colored * 255).astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
        tiles.append(np.pad(tile, ((0, 0), (0, 4), (0, 0))))
    return np.concatenate(tiles, axis=1)
