"""Several processes train one model as one process does; only the first one writes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.tiny_study import TinyStudy
from tests.support.tiny_study import study as study
from tests.support.training_process import options_of, rows_without_times, training_state
from train.cli import train_level
from train.runs.run_folder import RunRecord

# Batches of four out of six images: the second batch of an epoch has one image for each of two.
# Maps of several sizes come into one batch without a crop.
SETTINGS = (
    "--level", "2", "--epochs", "4", "--set", "training.crop=null", "--log-level", "info",
)  # fmt: skip
TIMEOUT_S = 240


def torchrun(
    study: TinyStudy, out: Path, num_processes: int, *more: str, largest_file: int | None = None
) -> subprocess.Popen[str]:
    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--no-python",
        "--nproc-per-node", str(num_processes), "--master-port", "0", "--standalone",
        sys.executable, "-W", "ignore", "-m", "tests.support.train_level",
    ]  # fmt: skip
    return subprocess.Popen(
        [*command, *options_of(study, out, *SETTINGS, *more)],
        cwd=Path(__file__).parents[3], env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit,
    )  # fmt: skip


def only_run(out: Path) -> Path:
    (folder,) = out.glob("*/run_*")
    return folder


@pytest.fixture(scope="module")
def alone(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, started without torchrun."""
    out = tmp_path_factory.mktemp("alone")
    result = CliRunner().invoke(train_level, options_of(study, out, *SETTINGS))
    assert result.exit_code == 0, result.output
    return only_run(out)


def test_two_processes_have_the_loss_curve_of_one(
    study: TinyStudy, alone: Path, tmp_path: Path
) -> None:
    process = torchrun(study, tmp_path, 2)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    run = only_run(tmp_path)
    assert stdout == f"level 2, lambda 0.001 -> {run}\n"
    assert RunRecord.load(run).num_processes == 2
    for ours, theirs in zip(rows_without_times(run), rows_without_times(alone), strict=True):
        for name, value in theirs.items():
            assert float(ours[name]) == pytest.approx(float(value), rel=1e-5), name
    # Written once: two writers would have doubled the rows and the folder.
    assert len(rows_without_times(run)) == 4


def test_processes_that_are_told_to_stop_save_once_and_go_on(
    study: TinyStudy, alone: Path, tmp_path: Path
) -> None:
    longer = ("--batch-size", "2", "--epochs", "2000")
    process = torchrun(study, tmp_path, 2, *longer)
    deadline = time.monotonic() + TIMEOUT_S
    while not any(tmp_path.glob("*/run_*/training_diagnostics_epoch_2.txt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert "stopped by SIGTERM in epoch " in stderr
    state = training_state(only_run(tmp_path) / "last_model.pth")["training_state"]
    assert state["progress"]["epoch"] >= 2


def test_error_of_the_process_that_writes_is_one_of_all_and_the_next_run_is_trained(
    study: TinyStudy, tmp_path: Path
) -> None:
    """Otherwise the others would take its next question for the answer that they wait for."""
    grid = ("--epochs", "1", "--log-level", "warning", "--lambda", "0.001")
    assert (
        CliRunner().invoke(train_level, options_of(study, tmp_path, *SETTINGS, *grid)).exit_code
        == 0
    )
    run = only_run(tmp_path)
    record = RunRecord.load(run)
    record.finished = None
    record.save(run)
    for name in ("last_model.pth", "previous_model.pth"):
        (run / name).write_bytes(b"nothing")
    process = torchrun(study, tmp_path, 2, *grid, "--lambda", "0.01")
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "level 2, lambda 0.001: " in stderr
    assert "start the run anew with --resume never" in stderr
    assert stdout.startswith("level 2, lambda 0.01 -> ")


def test_disk_that_one_process_alone_finds_full_ends_the_study_with_a_line(
    study: TinyStudy, tmp_path: Path
) -> None:
    """The others wait in this run: a next one would take their messages for its own."""
    process = torchrun(
        study, tmp_path, 2, "--lambda", "0.001", "--lambda", "0.01", largest_file=100_000
    )
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0
    assert "cannot be written (File too large): make room, or mend the disk" in stderr
    assert "mismatch" not in stderr
    assert len(list(tmp_path.glob("*/run_*"))) == 1
