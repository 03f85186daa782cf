"""Runs of different models are trained, found and compared alike."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner

from analyze.cli import analyze_levels
from data.reading.level_reader import LevelReader
from tests.support.tiny_study import TinyStudy
from train.cli import train_level
from train.runs.checkpoint import BEST_NAME, load_codec
from train.runs.run_folder import find_runs

MODEL_AND_STAGES_OF_LEVEL = {
    1: ("factorized_prior_specific_level", 3),
    2: ("scale_hyperprior", 4),
    3: ("mean_scale_hyperprior", 2),
    4: ("joint_autoregressive", 1),
}


@pytest.fixture(scope="module")
def checkpoints(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four levels, each with a run of another model."""
    out = tmp_path_factory.mktemp("runs")
    for level, (name, stages) in MODEL_AND_STAGES_OF_LEVEL.items():
        result = CliRunner().invoke(train_level, [
            "--config", str(study.config_file), "--features", str(study.root), "--out", str(out),
            "--level", str(level), "--epochs", "1",
            "--set", f"model.name={name}", "--set", f"model.stages={stages}",
        ])  # fmt: skip
        assert result.exit_code == 0, result.output
    return out


def test_a_run_reads_its_model_from_its_own_checkpoint(checkpoints: Path) -> None:
    for run in find_runs(checkpoints):
        name, stages = MODEL_AND_STAGES_OF_LEVEL[run.level]
        codec, info = load_codec(run.folder / BEST_NAME)
        assert (info.config.model.name, codec.stride) == (name, 2**stages)
        assert (run.folder / "training_diagnostics_epoch_1.txt").is_file()


def test_runs_of_all_models_are_in_one_report_with_real_rates_and_map(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, undrawn: None
) -> None:
    result = CliRunner().invoke(analyze_levels, [
        "--config", str(study.config_file), "--features", str(study.root),
        "--checkpoints", str(checkpoints), "--report", str(tmp_path),
        "--anchors", "none",
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    with (tmp_path / "levels.csv").open() as file:
        rows = {int(row["level"]): row for row in csv.DictReader(file)}
    for level, (name, _) in MODEL_AND_STAGES_OF_LEVEL.items():
        row = rows[level]
        assert float(row["real_bpp"]) > float(row["estimated_bpp"]) > 0
        assert row["map"] != ""
        with LevelReader(study.val_cache, level) as reader:
            shapes = [reader.shape(index) for index in range(reader.num_samples)]
        num_positions = sum(height * width for height, width, _ in shapes) / len(shapes)
        overhead_bits = (float(row["real_bpp"]) - float(row["payload_bpp"])) * num_positions
        num_payloads = 1 if name.startswith("factorized") else 2
        # Two bytes, one or two for each payload's length, and two or more for the size of level 0.
        assert 8 * (2 + num_payloads) - 0.1 <= overhead_bits <= 8 * (2 + 2 * num_payloads + 4)
