"""A finished run gets more epochs: the result is what they make from the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.resumed_runs import only_run
from tests.support.tiny_study import TinyStudy
from tests.support.training_command import call
from tests.support.training_process import differences, rows_without_times, training_state
from train.runs.checkpoint import LAST_NAME
from train.runs.run_record import RunRecord

SHORT = (
    "--level", "4", "--set", "training.lr_schedule.patience=0", "--set", "validation.interval=2",
    "--set", "training.learning_rate=0.01", "--set", "training.early_stopping.patience=3",
)  # fmt: skip


@pytest.mark.parametrize("schedule", ["training.seed=0", "training.lr_schedule.enabled=false"])
def test_finished_run_that_gets_more_epochs_is_what_they_make_from_the_start(
    study: TinyStudy, tmp_path: Path, schedule: str
) -> None:
    """Both ways, and through a validation that only its end asked for."""
    options = (*SHORT, "--set", schedule, "--epochs")
    assert call(study, tmp_path / "whole", *options, "7").exit_code == 0
    whole, out = only_run(tmp_path / "whole"), tmp_path / "runs"
    assert call(study, out, *options, "3").exit_code == 0
    first = only_run(out)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert call(study, out, *options, "7").exit_code == 0
    (copy,) = set(first.parent.iterdir()) - {first}
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert call(study, out, *options, "3").stdout.endswith(f"{first} (finished before)\n")
    assert call(study, out, *options, "7").stdout.endswith(f"{copy} (finished before)\n")
    assert call(study, out, "--resume", str(first), "--epochs", "7").exit_code == 0
    for run in (copy, first):
        record = RunRecord.load(run)
        assert record.continued == [{"run": str(first), "epochs": 3}]
        assert (record.epochs, record.finished) == (7, "all epochs done")
        states = [training_state(folder / LAST_NAME) for folder in (run, whole)]
        for state in states:
            # The third epoch was validated, and may be the best.
            for name in ("best", "best_loss", "num_samples"):
                del state["training_state"]["progress"][name]
            del state["config"], state["best_validation_loss"]
        assert differences(*states) == []
        rows = [rows_without_times(folder) for folder in (run, whole)]
        rows[0][2].update(val_loss="", val_mse="", val_bpp="")
        assert rows[0] == rows[1]
        assert "Epochs Run: 7" in (run / "training_summary.txt").read_text()


def test_cosine_goes_on_only_if_named_and_as_the_new_number_of_epochs_has_it(
    study: TinyStudy, tmp_path: Path
) -> None:
    options = ("--level", "4", "--set", "training.lr_schedule.name=cosine", "--epochs")
    assert call(study, tmp_path, *options, "2").exit_code == 0
    first = only_run(tmp_path)
    result = call(study, tmp_path, "--resume", str(first), "--epochs", "4")
    assert result.exit_code == 0, result.output
    said = (
        "the cosine goes on as it is over 4 epochs, at a learning rate of 5.00e-04: the run is not"
    )
    assert said in result.stderr
    assert call(study, tmp_path, *options, "4").exit_code == 0
    (whole,) = set(first.parent.iterdir()) - {first}  # the other one is none of four epochs
    rates = [[row["learning_rate"] for row in rows_without_times(run)] for run in (first, whole)]
    assert rates[0][:2] != rates[1][:2]
    assert rates[0][2:] == rates[1][2:]


def test_run_that_was_stopped_early_ends_there_with_any_number_of_epochs(
    study: TinyStudy, tmp_path: Path
) -> None:
    stopping = "training.early_stopping={patience: 1, min_delta: 100.0}"
    options = ("--level", "4", "--set", stopping, "--epochs")
    assert call(study, tmp_path, *options, "9").exit_code == 0
    run = only_run(tmp_path)
    assert call(study, tmp_path, *options, "20").stdout.endswith(f"{run} (finished before)\n")
    result = call(study, tmp_path, "--resume", str(run), "--epochs", "20")
    assert result.exit_code == 0, result.output
    assert "early stopping has ended it (no progress in 1 validations)" in result.stderr
    assert len(rows_without_times(run)) == 2
