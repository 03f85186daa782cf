"""Levels with settings of their own, and what makes another run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from configs.config_files import load_config
from configs.errors import ConfigError
from tests.support.tiny_study import TinyStudy
from tests.support.training_command import call, pairs_of
from train.loop.job import Job
from train.runs.run_folder import find_runs
from train.runs.run_record import RunRecord


def test_levels_of_one_configuration_are_trained_by_their_own_settings(
    study: TinyStudy, tmp_path: Path
) -> None:
    levels = tmp_path / "levels.yaml"
    levels.write_text(
        "levels:\n"
        "  3: {training: {lambda: 0.5, batch_size: 2}, model: {stages: 3}}\n"
        "  4: {training: {lambda: 0.25}, model: {stages: 2}}\n"
    )
    options = ("--config", f"{study.config_file},{levels}", "--epochs", "1")
    for level in ("3", "4"):
        assert call(study, tmp_path, "--level", level, *options).exit_code == 0
    runs = find_runs(tmp_path)
    assert [(run.level, run.lmbda, run.config.model.stages) for run in runs] == [
        (3, 0.5, 3),
        (4, 0.25, 2),
    ]
    names = [run.folder.name for run in runs]
    assert "_lambda_5.00e-01_" in names[0] and names[0].endswith("_bs_2")
    assert "_lambda_2.50e-01_" in names[1] and names[1].endswith("_bs_4")
    assert RunRecord.load(runs[0].folder).lmbda == 0.5
    again = call(study, tmp_path, "--level", "3", *options[:1], str(runs[1].folder / "config.yaml"))
    assert again.stdout.endswith("(finished before)\n"), again.output


def test_levels_that_there_are_not_and_a_model_for_all_levels_are_told(
    study: TinyStudy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job(
        train_cache=study.train_cache, val_cache=study.val_cache, level=0, device="cpu",
        config=load_config(str(study.config_file), ("levels.7.training.lambda=0.5",)),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"levels\.7: .*train holds the levels 0, 1, 2, 3, 4: "):
        job.settled()
    assert replace(job, level="random").settled().config.levels == {}
    assert "not for --level random" in caplog.text


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
