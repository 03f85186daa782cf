"""Runs that are stopped and go on: the command, and what must be equal in the end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_study import TinyStudy
from tests.support.training_command import call
from tests.support.training_process import (
    differences,
    rows_without_times,
    training_state,
)
from train.loop.steps import Step
from train.runs.checkpoint import LAST_NAME, load_codec

# Batches of one give six steps an epoch; the schedule and early stopping have a state to lose.
# There are so many epochs that no run ends before what is to happen in its middle has happened.
SETTINGS = (
    "--level", "1", "--batch-size", "1", "--epochs", "20", "--log-level", "info",
    "--set", "training.lr_schedule.patience=0", "--set", "training.learning_rate=0.01",
    "--set", "training.early_stopping.patience=100", "--set", "training.input_noise=0.1",
)  # fmt: skip
SAVE_ALWAYS = ("--set", "training.save_interval_s=0")


def begin(study: TinyStudy, out: Path, *options: str) -> None:
    """Let a training begin, and stop it in its first step."""

    def stopping(step: Step, *arguments: Any) -> None:
        take(step, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    take = Step.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", stopping)
        result = call(study, out, *options)
    assert result.exit_code == 128 + signal.SIGTERM, result.output
    assert "stopped by SIGTERM in epoch " in result.output


def only_run(out: Path) -> Path:
    (folder,) = out.glob("*/run_*")
    return folder


def must_equal(run: Path, uninterrupted: Path) -> None:
    """Every bit of the state is the same, and so are the metrics and the best model."""
    states = [training_state(folder / LAST_NAME) for folder in (run, uninterrupted)]
    for state in states:
        del state["config"]  # how often is saved may differ
    assert differences(*states) == []
    assert rows_without_times(run) == rows_without_times(uninterrupted)
    best = [load_codec(folder / "best_model.pth")[1] for folder in (run, uninterrupted)]
    assert best[0].model_sha256 == best[1].model_sha256
    assert best[0].epoch == best[1].epoch
