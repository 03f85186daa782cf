"""train-level as a user types it: its options, and one clear line for each mistake."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from configs.config_files import dump_config
from tests.support.tiny_study import (
    TinyStudy,
    extract_tiny,
    save_detector,
    tiny_config,
    with_detector,
)
from train.cli import train_level
from train.runs.run_folder import find_runs


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(study: TinyStudy, *options: str, features: Path | None = None) -> Result:
    """Run train-level on the study for one epoch, as if typed."""
    return CliRunner().invoke(
        train_level,
        [
            "--config", str(study.config_file), "--features", str(features or study.root),
            "--epochs", "1", "--log-level", "warning", *options,
        ],
    )  # fmt: skip


def the_line(result: Result) -> str:
    """The one line on stderr of a command that failed with exit code 1."""
    assert result.exit_code == 1, result.output
    assert not result.stdout
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def test_lambda_may_be_repeated_and_names_run_and_analysis(study: TinyStudy) -> None:
    result = call(study, "--level", "4", "--lambda", "0.0005", "--lambda", "0.02")
    assert result.exit_code == 0, result.output
    # Both may begin in one second, and then their names are in no order of time.
    runs = sorted(find_runs(Path("checkpoints")), key=lambda run: run.lmbda)
    assert [run.lmbda for run in runs] == [0.0005, 0.02]
    assert "_lambda_5.00e-04_lr_1.00e-03_bs_4" in runs[0].folder.name
    assert (runs[0].folder / "level_analysis/level_4/lambda_0.0005/epoch_0001.png").is_file()
    assert (runs[1].folder / "level_analysis/level_4/lambda_0.02/epoch_0001.json").is_file()
    assert result.stdout.splitlines() == [
        f"level 4, lambda {run.lmbda:g} -> {run.folder}" for run in runs
    ]


def test_level_all_trains_each_level_of_the_cache_into_out(study: TinyStudy) -> None:
    result = call(study, "--level", "all", "--out", "elsewhere/runs", "--batch-size", "6")
    assert result.exit_code == 0, result.output
    runs = find_runs(Path("elsewhere/runs"))
    assert [run.level for run in runs] == [0, 1, 2, 3, 4]
    assert all(run.folder.name.endswith("_bs_6") for run in runs)
    assert {path.name for path in Path("elsewhere/runs").iterdir()} == {
        f"fpn_specific_level_compression_level_{level}" for level in range(5)
    }
    assert not Path("checkpoints").exists()


def test_set_overrides_the_file(study: TinyStudy) -> None:
    result = call(study, "--level", "4", "--set", "training.learning_rate=2e-4")
    assert result.exit_code == 0, result.output
    (run,) = find_runs(Path("checkpoints"))
    assert run.config.training.learning_rate == 2e-4
    assert "_lr_2.00e-04_" in run.folder.name


def test_missing_cache_names_the_command_that_makes_it(study: TinyStudy) -> None:
    for level in ("0", "all"):
        line = the_line(call(study, "--level", level, features=Path("nowhere")))
        assert line == (
            "nowhere/train: holds no feature cache: run extract-features --split train, "
            "or name the folder that holds it with --features"
        )


def test_missing_val_cache_is_found_before_training(study: TinyStudy) -> None:
    line = the_line(call(study, "--level", "0", "--val-split", "test"))
    assert line == (
        f"{study.root}/test: holds no feature cache: run extract-features --split test, "
        "or name the folder that holds it with --features"
    )
    assert not Path("checkpoints").exists()


def test_unfinished_cache_says_how_to_finish_it(study: TinyStudy) -> None:
    shutil.copytree(study.root, "features")
    Path("features/train/statistics_level_0.json").unlink()
    line = the_line(call(study, "--level", "0", features=Path("features")))
    assert line == (
        "features/train: the extraction has not finished: "
        "run extract-features --split train again, it goes on where it stopped"
    )


def test_level_that_is_not_stored_names_those_that_are(study: TinyStudy) -> None:
    line = the_line(call(study, "--level", "7"))
    assert line == "the train cache holds levels 0, 1, 2, 3, 4, not level 7"


@pytest.mark.parametrize("level", ["fine", "-1", "1.5", "²", ""])
def test_level_that_is_no_number_is_refused(study: TinyStudy, level: str) -> None:
    line = the_line(call(study, "--level", level))
    assert line == f"--level {level}: use a level's number (0 is the finest), all, random, or fused"


def test_wrong_number_of_channels_says_what_to_set(study: TinyStudy) -> None:
    line = the_line(call(study, "--level", "2", "--set", "model.fpn_channels_per_level=64"))
    assert line == (
        "model.fpn_channels_per_level is 64, level 2 of the cache has 256: set it to that"
    )


@pytest.mark.parametrize("lmbda", ["nan", "inf"])
def test_lambda_that_is_not_finite_is_refused_before_training(study: TinyStudy, lmbda: str) -> None:
    line = the_line(call(study, "--level", "4", "--lambda", "0.01", "--lambda", lmbda))
    assert line == f"--lambda {lmbda}: use a finite number, 0 or more"
    assert not Path("checkpoints").exists()


def test_negative_lambda_is_a_usage_error(study: TinyStudy) -> None:
    result = call(study, "--level", "4", "--lambda", "-1")
    assert result.exit_code == 2
    assert "Invalid value for '--lambda'" in result.stderr


def test_lambda_0_trains_for_distortion_alone(study: TinyStudy) -> None:
    result = call(study, "--level", "4", "--lambda", "0")
    assert result.exit_code == 0, result.output
    (run,) = find_runs(Path("checkpoints"))
    assert run.lmbda == 0.0
    assert (run.folder / "level_analysis/level_4/lambda_0").is_dir()


def test_caches_of_different_detectors_are_refused(study: TinyStudy, tmp_path: Path) -> None:
    shutil.copytree(study.train_cache, "features/train")
    other = with_detector(tiny_config(), save_detector(tmp_path / "other.pth", seed=1))
    extract_tiny(Path("features"), other, ["val"])
    absent = ("--set", "detector.checkpoint=gone.pth")  # so that neither is compared with it
    line = the_line(call(study, "--level", "4", *absent, features=Path("features")))
    assert line.startswith("the caches of train and val are of different detectors (weights_")
    assert line.endswith("extract both with the same settings")


def test_checkpoint_option_that_names_no_file_is_one_line(study: TinyStudy) -> None:
    line = the_line(call(study, "--level", "4", "--detection-checkpoint", "gone.pth"))
    assert line == "--detection-checkpoint gone.pth: no such file"


def test_nan_loss_is_one_line(study: TinyStudy) -> None:
    line = the_line(call(study, "--level", "0", "--set", "training.learning_rate=1e10"))
    assert "the loss became nan" in line
    assert "lower training.learning_rate" in line


def test_out_that_cannot_be_made_says_to_choose_another(study: TinyStudy) -> None:
    Path("taken").write_text("a file")
    line = the_line(call(study, "--level", "4", "--out", "taken"))
    assert line.endswith("choose another --out")


def test_without_options_the_cache_lies_in_features_under_the_datas_name(study: TinyStudy) -> None:
    Path("features").mkdir()
    Path("features/tiny").symlink_to(study.root)
    Path("mine.yaml").write_text(dump_config(study.config), encoding="utf-8")
    result = CliRunner().invoke(
        train_level, ["--config", "mine.yaml", "--level", "4", "--log-level", "warning"]
    )
    assert result.exit_code == 0, result.output
    (run,) = find_runs(Path("checkpoints"))
    assert run.folder.parent == Path("checkpoints/fpn_specific_level_compression_level_4")


def test_codec_trains_from_8_bits_and_is_validated_on_float16(
    study: TinyStudy, tmp_path: Path
) -> None:
    features = tmp_path / "features"
    cache = study.config.cache.model_copy(update={"dtype": {"train": "uint8"}})
    extract_tiny(features, study.config.model_copy(update={"cache": cache}), ["train"])
    (features / "val").symlink_to(study.val_cache)
    dtypes = "cache.dtype={train: uint8, val: float16}"
    result = call(study, "--level", "4", "--set", dtypes, features=features)
    assert result.exit_code == 0, result.output
    assert not result.stderr  # no warning
    assert "level 4, lambda" in result.stdout
    refused = the_line(call(study, "--level", "4", "--set", "cache.dtype=uint8", features=features))
    assert "val: was not made with these settings (dtype: 'float16' there, 'uint8' now)" in refused
