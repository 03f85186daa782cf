"""The numbers of a run are written whatever its folder is called."""

from __future__ import annotations

import os
from pathlib import Path

from train.runs.metrics import METRICS_NAME, EpochMetrics, RunLog, read_rows


def test_run_in_a_folder_whose_name_is_no_utf_8_has_its_metrics_and_its_event_file(
    tmp_path: Path,
) -> None:
    folder = tmp_path / os.fsdecode(b"run\xff")
    folder.mkdir()
    log = RunLog(folder)
    log.add(EpochMetrics(
        epoch=1, train_loss=1.0, train_mse=1.0, train_bpp=1.0, aux_loss=1.0, val_loss=None,
        val_mse=None, val_bpp=None, learning_rate=1.0, gradient_norm=1.0, steps_per_s=1.0,
        data_wait_share=0.0, seconds=1.0,
    ))  # fmt: skip
    log.close()
    assert [row[0] for row in read_rows(folder / METRICS_NAME, 13)] == ["1"]
    (events,) = folder.glob("events.out.tfevents.*")
    assert events.stat().st_size > 0
