"""Several processes train one model as one process does; only the first one writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.elastic_nodes import output_of, start_nodes
from tests.support.tiny_study import TinyStudy
from tests.support.training_process import (
    options_of,
    rows_without_times,
    start_ranks,
    training_state,
)
from train.cli import train_level
from train.runs.run_record import RunRecord

# Batches of four out of six images: the second batch of an epoch has one image for each of two.
# Maps of several sizes come into one batch without a crop.
SETTINGS = (
    "--level", "2", "--epochs", "4", "--set", "training.crop=null", "--log-level", "info",
)  # fmt: skip
TIMEOUT_S = 240


def torchrun(study: TinyStudy, out: Path, num_processes: int, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--no-python",
        "--nproc-per-node", str(num_processes), "--master-port", "0", "--standalone",
        sys.executable, "-W", "ignore", "-m", "tests.support.train_level",
    ]  # fmt: skip
    return subprocess.Popen(
        [*command, *options_of(study, out, *SETTINGS, *more)],
        cwd=Path(__file__).parents[3], env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
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


@pytest.mark.parametrize("num_processes", [2, 4])
def test_several_processes_have_the_loss_curve_of_one(
    study: TinyStudy, alone: Path, tmp_path: Path, num_processes: int
) -> None:
    """Of four, two have nothing of the last batch of an epoch, and one nothing to validate."""
    outputs = [tmp_path / f"output_{rank}" for rank in range(num_processes)]
    ranks = start_ranks(options_of(study, tmp_path, *SETTINGS), outputs)
    for rank, output in zip(ranks, outputs, strict=True):
        rank.join(TIMEOUT_S)
        assert rank.exitcode == 0, output.read_text()
    run = only_run(tmp_path)
    assert f"level 2, lambda 0.001 -> {run}\n" in outputs[0].read_text()
    assert RunRecord.load(run).num_processes == num_processes
    for ours, theirs in zip(rows_without_times(run), rows_without_times(alone), strict=True):
        for name, value in theirs.items():
            assert float(ours[name]) == pytest.approx(float(value), rel=1e-5), name
    # Written once: two writers would have doubled the rows and the folder.
    assert len(rows_without_times(run)) == 4


def test_a_process_of_two_nodes_is_killed_and_torchrun_goes_on_from_the_last_checkpoint(
    study: TinyStudy, alone: Path, tmp_path: Path
) -> None:
    """Of the node with the first process, which writes; both nodes' processes begin again."""
    options = options_of(study, tmp_path, *SETTINGS, "--set", "training.save_interval_s=0")
    nodes = start_nodes(options, tmp_path, num_nodes=2, processes_per_node=2)
    deadline = time.monotonic() + TIMEOUT_S
    while not any(tmp_path.glob("*/run_*/training_diagnostics_epoch_1.txt")):
        assert all(node.is_alive() for node in nodes)
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(int(output_of(tmp_path, 1, 0).read_text().split()[0]), signal.SIGKILL)
    for node in nodes:
        node.join(TIMEOUT_S)
        assert node.exitcode == 0
    said = output_of(tmp_path, 0, 1).read_text()
    assert "going on in epoch " in said
    run = only_run(tmp_path)
    assert f"level 2, lambda 0.001 -> {run}\n" in said
    assert RunRecord.load(run).finished is not None
    for ours, theirs in zip(rows_without_times(run), rows_without_times(alone), strict=True):
        for name, value in theirs.items():
            assert float(ours[name]) == pytest.approx(float(value), rel=1e-5), name


def test_restarts_that_would_begin_anew_each_time_are_refused(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    options = options_of(study, tmp_path, *SETTINGS, "--resume", "never")
    result = CliRunner().invoke(train_level, options)
    assert result.exit_code == 1
    assert "--resume never: each of torchrun's 3 restarts would begin anew" in result.output
    assert list(tmp_path.iterdir()) == []


OWN = """
import os

calls = 0


def of_one(x_hat, x):  # met by one process alone, in its second step
    global calls
    calls += os.environ["RANK"] == "1"
    assert len(x), "asked for the error of no maps"
    error = (x_hat - x).square()
    return error.sum() if calls == 2 else error


if os.environ["RANK"] == "1":
    def at_the_start(x_hat, x): ...
"""


@pytest.mark.parametrize(
    ("name", "others_say"),
    [
        ("of_one", "another process of this training has ended: its line says why"),
        # Known before anything begins, of both runs of the study.
        ("at_the_start", "has no 'at_the_start'"),
    ],
)
def test_what_one_process_alone_meets_ends_all_and_is_told(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, others_say: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_ranks.py").write_text(OWN)
    outputs = [tmp_path / "output_0", tmp_path / "output_1"]
    options = options_of(
        study, tmp_path, *SETTINGS, "--batch-size", "1", "--lambda", "0.1", "--lambda", "0.2",
        "--set", f"training.distortion=own_ranks:{name}",
    )  # fmt: skip
    ranks = start_ranks(options, outputs)
    for rank in ranks:
        rank.join(TIMEOUT_S)
        assert rank.exitcode == 1
    assert others_say in outputs[0].read_text()
    said = outputs[1].read_text()
    assert "training.distortion: 'own_ranks:of_one' returns []" in said or others_say in said
    assert len(list(tmp_path.glob("*/run_*"))) == (1 if name == "of_one" else 0)


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
    outputs = [tmp_path / "output_0", tmp_path / "output_1"]
    options = options_of(study, tmp_path, *SETTINGS, *grid, "--lambda", "0.01")
    for rank in start_ranks(options, outputs):
        rank.join(TIMEOUT_S)
        assert rank.exitcode == 1
    said = outputs[0].read_text()
    assert "level 2, lambda 0.001: " in said
    assert "start the run anew with --resume never" in said
    assert "level 2, lambda 0.01 -> " in said


def test_disk_that_one_process_alone_finds_full_ends_the_study_with_a_line(
    study: TinyStudy, tmp_path: Path
) -> None:
    """The others wait in this run: a next one would take their messages for its own."""
    outputs = [tmp_path / "output_0", tmp_path / "output_1"]
    options = options_of(study, tmp_path, *SETTINGS, "--lambda", "0.001", "--lambda", "0.01")
    for rank in start_ranks(options, outputs, largest_file=100_000):
        rank.join(TIMEOUT_S)
        assert rank.exitcode == 1
    said = [output.read_text() for output in outputs]
    assert "cannot be written (File too large): make room, or mend the disk" in said[0]
    assert "another process of this training has ended: its line says why" in said[1]
    assert "mismatch" not in "".join(said)
    assert len(list(tmp_path.glob("*/run_*"))) == 1
