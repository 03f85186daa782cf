"""One model for all levels: as many steps as a special one, each level with its own scale."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from configs.errors import ConfigError
from data.reading.level_reader import LevelReader
from tests.support.tiny_study import TinyStudy
from tests.support.training_process import options_of, rows_without_times
from train.cli import train_level
from train.loop.validation import validate
from train.runs.checkpoint import load_codec
from train.runs.run_record import RunRecord


def call(study: TinyStudy, out: Path, *options: str) -> Result:
    return CliRunner().invoke(
        train_level,
        options_of(study, out, "--level", "random", "--log-level", "warning", *options),
    )


@pytest.fixture(scope="module")
def run(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("random")
    result = call(study, out, "--epochs", "3")
    assert result.exit_code == 0, result.output
    (folder,) = (out / "fpn_random_level_compression").iterdir()
    assert result.stdout == f"level random, lambda 0.001 -> {folder}\n"
    return folder


def test_run_has_one_model_and_figures_of_every_level(run: Path) -> None:
    assert RunRecord.load(run).level == "random"
    assert len(rows_without_times(run)) == 3
    with (run / "validation_levels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["level"]) for row in rows] == [
        (str(epoch), str(level)) for epoch in (1, 2, 3) for level in range(5)
    ]
    last = [float(row["val_loss"]) for row in rows[-5:]]
    assert sum(last) / 5 == pytest.approx(float(rows_without_times(run)[-1]["val_loss"]))
    assert {path.name for path in (run / "level_analysis").iterdir()} == {
        f"level_{level}" for level in range(5)
    }


def test_codec_standardises_each_level_by_its_own_statistics(run: Path, study: TinyStudy) -> None:
    with (run / "validation_levels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    _, info = load_codec(run / "best_model.pth", level=0)
    assert info.levels == (0, 1, 2, 3, 4)
    for level in range(5):
        codec, _ = load_codec(run / "best_model.pth", level=level)
        with LevelReader(study.train_cache, level) as reader:
            expected = torch.from_numpy(reader.statistics.mean.copy()).float()
            assert torch.equal(codec.mean[level], expected)
        with LevelReader(study.val_cache, level) as reader:
            found = validate(codec, reader, 2, 0.001, "cpu")
        (row,) = [
            row for row in rows if row["epoch"] == str(info.epoch) and row["level"] == str(level)
        ]
        # Tables for coding move the medians a little, and with them the rounding.
        assert found.mse == pytest.approx(float(row["val_mse"]), rel=0.02)


def test_level_that_the_model_does_not_serve_is_named(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"serves the levels \[0, 1, 2, 3, 4\], not level 7"):
        load_codec(run / "best_model.pth", level=7)


def test_finished_run_is_known_again_and_weights_make_another(run: Path, study: TinyStudy) -> None:
    out = run.parents[1]
    assert "(finished before)" in call(study, out, "--epochs", "3").stdout
    result = call(study, out, "--epochs", "1", "--set", "training.level_weights=[1, 0, 0, 0, 0]")
    assert result.exit_code == 0, result.output
    (other,) = [folder for folder in run.parent.iterdir() if folder != run]
    row = rows_without_times(other)[0]
    # Only the finest level counts in the mean, too.
    with (other / "validation_levels.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["val_loss"]) == float(row["val_loss"])
    assert math.isfinite(float(row["train_loss"]))


@pytest.mark.parametrize("weights", ["[1, 2]", "[0, 0, 0, 0, 0]"])
def test_weights_that_do_not_fit_are_one_line(
    study: TinyStudy, tmp_path: Path, weights: str
) -> None:
    result = call(study, tmp_path, "--set", f"training.level_weights={weights}")
    assert result.exit_code == 1
    assert "the cache has 5 levels: give one weight each" in result.stderr
    assert result.stderr.count("\n") == 1
