"""A grid of runs in one command: nothing is trained twice, and no failure costs the others."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from configs.loading import load_config
from tests.tiny_study import TinyStudy
from tests.tiny_study import study as study
from tests.training_process import options_of, rows_without_times, start_training, wait_for
from train.checkpoint import load_codec
from train.cli import train_level
from train.job import Job
from train.run_folder import RunRecord, find_runs
from train.study import chains_of

GRID = (
    "--level", "all", "--lambda", "0.01", "--lambda", "0.001", "--epochs", "1",
)  # fmt: skip


def call(study: TinyStudy, out: Path, *options: str) -> Result:
    return CliRunner().invoke(
        train_level, options_of(study, out, "--log-level", "warning", *options)
    )


def pairs_of(out: Path) -> list[tuple[int, float]]:
    return sorted((run.level, run.lmbda) for run in find_runs(out))


ALL_PAIRS = [(level, lmbda) for level in range(5) for lmbda in (0.001, 0.01)]


def test_grid_is_trained_once_and_by_two_at_a_time_as_by_one(
    study: TinyStudy, tmp_path: Path
) -> None:
    result = call(study, tmp_path / "two", *GRID, "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert pairs_of(tmp_path / "two") == ALL_PAIRS
    assert len(result.stdout.splitlines()) == 10
    again = call(study, tmp_path / "two", *GRID, "--jobs", "2")
    assert again.exit_code == 0, again.output
    assert again.stdout.count("(finished before)") == 10
    assert pairs_of(tmp_path / "two") == ALL_PAIRS
    one = call(study, tmp_path / "one", "--level", "4", *GRID[2:])
    assert one.exit_code == 0, one.output
    for run in find_runs(tmp_path / "one"):
        (twin,) = [
            other
            for other in find_runs(tmp_path / "two")
            if (other.level, other.lmbda) == (run.level, run.lmbda)
        ]
        infos = [load_codec(each.folder / "best_model.pth")[1] for each in (run, twin)]
        assert infos[0].model_sha256 == infos[1].model_sha256


@pytest.mark.parametrize(
    ("jobs", "number"), [("1", signal.SIGTERM), ("2", signal.SIGTERM), ("2", signal.SIGINT)]
)
def test_interrupted_study_goes_on_with_the_same_command(
    study: TinyStudy, tmp_path: Path, jobs: str, number: signal.Signals
) -> None:
    out, output = tmp_path / "runs", tmp_path / "output"
    options = options_of(study, out, *GRID[:-1], "8", "--batch-size", "1", "--jobs", jobs)
    process = start_training(options, output)
    wait_for(process, lambda: len(list(out.glob("*/run_*"))) >= 4)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    said = output.read_text()
    assert process.exitcode == 128 + number, said
    assert f"stopped by {number.name}" in said.splitlines()[-1]
    assert said.count("SIGTERM") == (said.count("SIG") if number == signal.SIGTERM else 0)
    begun = {run.folder for run in find_runs(out)}
    process = start_training(options, output)
    process.join()
    assert process.exitcode == 0, output.read_text()
    assert pairs_of(out) == ALL_PAIRS
    assert begun <= {run.folder for run in find_runs(out)}
    for run in find_runs(out):
        assert [row["epoch"] for row in rows_without_times(run.folder)] == [
            str(n) for n in range(1, 9)
        ]


def test_processes_of_a_killed_study_stop_and_the_same_command_goes_on(
    study: TinyStudy, tmp_path: Path
) -> None:
    out, output = tmp_path / "runs", tmp_path / "output"
    options = options_of(
        study, out, "--level", "4", *GRID[2:-1], "10", "--batch-size", "1", "--jobs", "2",
        "--set", "training.early_stopping.enabled=false",
    )  # fmt: skip
    process = start_training([*options, "--epochs", "5000"], output)
    wait_for(process, lambda: len(list(out.glob("*/run_*/metrics.csv"))) == 2)
    process.kill()
    process.join()
    deadline = time.monotonic() + 300
    for run in [path.parent for path in out.glob("*/run_*/metrics.csv")]:
        while not (run / "last_model.pth").exists():
            assert time.monotonic() < deadline, "the run was neither stopped nor saved"
            time.sleep(0.05)
        assert RunRecord.load(run).finished is None


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_run_that_fails_does_not_cost_the_others(
    study: TinyStudy, tmp_path: Path, jobs: str
) -> None:
    weights = tmp_path / "weights.json"
    ones = ", ".join(["1.0"] * 256)
    weights.write_text(f'{{"levels": {{"2": [{ones}], "4": [1.0], "3": [{ones}]}}}}')
    result = call(
        study, tmp_path, "--level", "all", "--epochs", "1", "--jobs", jobs,
        "--set", "training.distortion=channel_weighted",
        "--set", f"training.channel_weights={weights}",
    )  # fmt: skip
    assert result.exit_code == 1
    assert pairs_of(tmp_path) == [(2, 0.001), (3, 0.001)]
    last = result.stderr.splitlines()[-1]
    assert "level 0, lambda 0.001: training.channel_weights" in last
    assert "level 4, lambda 0.001: training.channel_weights" in last


def test_warm_start_begins_from_the_next_smaller_lambdas_best_model(
    study: TinyStudy, tmp_path: Path
) -> None:
    options = ("--level", "4", "--lambda", "0.1", "--lambda", "0.001", "--lambda", "0.01")
    result = call(study, tmp_path, *options, "--epochs", "3", "--warm-start")
    assert result.exit_code == 0, result.output
    runs = {run.lmbda: run for run in find_runs(tmp_path)}
    cold = call(study, tmp_path / "cold", *options, "--epochs", "3")
    assert cold.exit_code == 0, cold.output
    colds = {run.lmbda: run for run in find_runs(tmp_path / "cold")}
    assert RunRecord.load(runs[0.001].folder).warm_start is None
    for lmbda, before in ((0.01, 0.001), (0.1, 0.01)):
        start = RunRecord.load(runs[lmbda].folder).warm_start
        assert start is not None
        assert start["run"] == str(runs[before].folder)
        assert (
            start["model_sha256"]
            == load_codec(runs[before].folder / "best_model.pth")[1].model_sha256
        )
        first = [rows_without_times(r[lmbda].folder)[0]["train_loss"] for r in (runs, colds)]
        assert float(first[0]) < float(first[1])


def test_named_run_without_a_checkpoint_begins_as_warm_as_it_did(
    study: TinyStudy, tmp_path: Path
) -> None:
    options = ("--level", "4", "--lambda", "0.001", "--lambda", "0.01", "--epochs", "1")
    assert call(study, tmp_path, *options, "--warm-start").exit_code == 0
    (run,) = [run for run in find_runs(tmp_path) if run.lmbda == 0.01]
    rows, start = rows_without_times(run.folder), RunRecord.load(run.folder).warm_start
    (run.folder / "last_model.pth").unlink()
    result = call(study, tmp_path, "--resume", str(run.folder))
    assert result.exit_code == 0, result.output
    assert RunRecord.load(run.folder).warm_start == start
    assert rows_without_times(run.folder) == rows


def test_chains_are_levels_only_with_a_warm_start(tmp_path: Path) -> None:
    def job(level: int, lmbda: float, warm: bool) -> Job:
        config = load_config(
            None, (f"training.lambda={lmbda}", f"training.warm_start={str(warm).lower()}")
        )
        return Job(
            train_cache=tmp_path, val_cache=tmp_path, level=level, config=config, device="cpu"
        )

    def shape(warm: bool) -> list[list[tuple[int | str, float]]]:
        jobs = [job(level, lmbda, warm) for level in (1, 0) for lmbda in (0.3, 0.1)]
        return [[(j.level, j.config.training.lmbda) for j in chain] for chain in chains_of(jobs)]

    assert shape(False) == [[(1, 0.3)], [(1, 0.1)], [(0, 0.3)], [(0, 0.1)]]
    assert shape(True) == [[(1, 0.1), (1, 0.3)], [(0, 0.1), (0, 0.3)]]


def test_weights_file_with_other_content_is_another_run(study: TinyStudy, tmp_path: Path) -> None:
    weights = tmp_path / "weights.json"
    options = (
        "--level", "4", "--epochs", "1", "--set", "training.distortion=channel_weighted",
        "--set", f"training.channel_weights={weights}",
    )  # fmt: skip
    for value in (1.0, 2.0, 2.0):
        weights.write_text(f'{{"levels": {{"4": {[value] + [1.0] * 255}}}}}')
        assert call(study, tmp_path, *options).exit_code == 0
    assert pairs_of(tmp_path) == [(4, 0.001)] * 2
