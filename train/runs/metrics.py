"""The numbers of a run's epochs: metrics.csv, and TensorBoard beside it."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from data.system.atomic_files import write_atomically

METRICS_NAME = "metrics.csv"


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
        self._board = SummaryWriter(name, purge_step=kept + 1)

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
        self._board.close()
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
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return [row for row in rows[1:] if len(row) == num_columns]
