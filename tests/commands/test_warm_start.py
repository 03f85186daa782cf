"""A warm start begins each lambda from the best model of the next smaller one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.config_files import load_config
from configs.errors import UserError
from tests.support.tiny_study import TinyStudy
from tests.support.training_command import call
from tests.support.training_process import rows_without_times
from train.loop.job import Job
from train.runs.checkpoint import load_codec
from train.runs.run_folder import find_runs
from train.runs.run_record import RunRecord
from train.study.chain import chains_of


def test_lambda_whose_predecessor_failed_is_left_for_later_and_then_begins_warm(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        "--level", "4", "--lambda", "0.001", "--lambda", "0.01", "--epochs", "1", "--warm-start",
    )  # fmt: skip

    def fail(job: Job, **more: Any) -> Path:
        assert job.config.training.lmbda == 0.001, "the other one is not to be begun"
        raise UserError("too little memory")

    with monkeypatch.context() as patch:
        patch.setattr("train.study.chain.train_level", fail)
        result = call(study, tmp_path, *options)
    assert result.exit_code == 1
    assert (
        "level 4, lambda 0.01: not trained, as it begins from the best model of lambda 0.001, "
        "which has failed: mend that, the same command goes on" in result.stderr.splitlines()[-1]
    )
    # Told at once, too, not in the last line alone.
    assert "ERROR level 4, lambda 0.001: too little memory" in result.stderr
    assert call(study, tmp_path, *options).exit_code == 0
    runs = {run.lmbda: run for run in find_runs(tmp_path)}
    start = RunRecord.load(runs[0.01].folder).warm_start
    assert start is not None
    assert start["run"] == str(runs[0.001].folder)


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
    one_warm = [job(level, lmbda, warm=level == 0) for level in (1, 0) for lmbda in (0.3, 0.1)]
    assert [len(chain) for chain in chains_of(one_warm)] == [1, 1, 2]
