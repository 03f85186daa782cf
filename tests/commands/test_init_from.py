"""train-level --init-from: a run begins from another one's best model, if it is of its kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from configs.config_files import load_config
from extract.detector.loading import load_detector
from tests.support.extraction import error_of
from tests.support.tiny_study import TinyStudy
from tests.support.training_process import options_of
from train.cli import train_level
from train.loop.beginning import best_model_of
from train.runs.checkpoint import load_codec, load_weights
from train.runs.run_folder import find_runs
from train.runs.run_record import RunRecord


def call(study: TinyStudy, out: Path, *options: str) -> Result:
    return CliRunner().invoke(
        train_level, options_of(study, out, "--log-level", "warning", *options)
    )


def is_close(weights: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    """Say whether the transforms' weights are the same but for rounding."""
    names = [name for name in weights if name.startswith(("g_a", "g_s"))]
    assert names
    return all(torch.allclose(weights[name], others[name], rtol=0, atol=1e-6) for name in names)


@pytest.fixture(scope="module")
def start(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of level 4, three epochs."""
    out = tmp_path_factory.mktemp("start")
    assert call(study, out, "--level", "4", "--epochs", "3").exit_code == 0
    (run,) = find_runs(out)
    return run.folder


def test_run_begins_from_the_named_runs_best_model_and_says_so(
    study: TinyStudy, start: Path, tmp_path: Path
) -> None:
    # At a vanishing learning rate a run ends with the weights that it began with.
    options = ("--level", "4", "--epochs", "1", "--lambda", "0.0005", "--lambda", "0.002")
    options += ("--set", "training.learning_rate=1e-12")
    result = call(study, tmp_path / "warm", *options, "--init-from", str(start))
    assert result.exit_code == 0, result.output
    assert call(study, tmp_path / "cold", *options).exit_code == 0
    weights = load_weights(start / "best_model.pth")
    for run, cold in zip(find_runs(tmp_path / "warm"), find_runs(tmp_path / "cold"), strict=True):
        record = RunRecord.load(run.folder).warm_start
        assert record is not None and record["run"] == str(start)
        assert record["model_sha256"] == load_codec(start / "best_model.pth")[1].model_sha256
        assert is_close(load_weights(run.folder / "last_model.pth"), weights)
        assert not is_close(load_weights(cold.folder / "last_model.pth"), weights)


def test_same_command_again_finds_the_run_finished_and_one_without_the_option_does_not(
    study: TinyStudy, start: Path, tmp_path: Path
) -> None:
    options = ("--level", "4", "--epochs", "1")
    for _ in range(2):
        result = call(study, tmp_path, *options, "--init-from", str(start))
        assert result.exit_code == 0, result.output
    assert "(finished before)" in result.stdout
    assert "(finished before)" not in call(study, tmp_path, *options).stdout
    assert len(find_runs(tmp_path)) == 2


def test_with_a_warm_start_only_the_first_lambda_begins_from_the_named_run(
    study: TinyStudy, start: Path, tmp_path: Path
) -> None:
    options = ("--level", "4", "--epochs", "1", "--lambda", "0.01", "--lambda", "0.1")
    result = call(study, tmp_path, *options, "--warm-start", "--init-from", str(start))
    assert result.exit_code == 0, result.output
    runs = {run.lmbda: run.folder for run in find_runs(tmp_path)}
    begun = {lmbda: RunRecord.load(folder).warm_start for lmbda, folder in runs.items()}
    assert [record and record["run"] for record in (begun[0.01], begun[0.1])] == [
        str(start),
        str(runs[0.01]),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--level", "3"), "a run of level 4, this one is of level 3: name a run of the same kind"),
        (
            ("--level", "4", "--set", "model.stages=2"),
            "a run with model stages 4, this one is with model stages 2: name a run of the same",
        ),
    ],
)
def test_run_of_another_kind_is_refused_and_leaves_no_run(
    study: TinyStudy, start: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = call(study, tmp_path, *options, "--epochs", "1", "--init-from", str(start))
    assert message in error_of(result)
    assert str(start) in error_of(result)
    assert not list(tmp_path.glob("*/run_*"))


def test_folder_that_is_no_run_is_one_line(study: TinyStudy, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    result = call(study, tmp_path, "--level", "4", "--epochs", "1", "--init-from", missing)
    assert f"{missing}/best_model.pth" in error_of(result)


def test_resumed_run_takes_no_other_beginning(study: TinyStudy, start: Path) -> None:
    result = call(study, start.parents[1], "--resume", str(start), "--init-from", str(start))
    assert "training.init_from" in error_of(result)
    assert "now): leave that out, or start another run with --resume never" in error_of(result)


def test_codecs_of_the_package_are_of_its_detector_and_of_the_quickstarts_model() -> None:
    config = load_config("quickstart")
    detector = load_detector(config.detector, "cpu")
    for level in range(5):
        codec, info = load_codec(best_model_of("builtin:scenes", level))
        assert info.level == level
        assert info.detector_weights_sha256 == detector.weights_sha256
        assert info.config.model.architecture() == config.model.architecture()
        assert all(value.isfinite().all() for value in codec.state_dict().values())


def test_codec_of_the_package_is_refused_for_features_of_another_detector(
    study: TinyStudy, tmp_path: Path
) -> None:
    settings = [f"--set=model.{key}" for key in ("stages=2", "n_hidden=64", "n_channels=96")]
    result = call(study, tmp_path, "--level", "4", *settings, "--init-from", "builtin:scenes")
    assert "training.init_from builtin:scenes: a run of detector weights" in error_of(result)


@pytest.mark.parametrize("name", ["nothing", "../builtin/scenes", "/scenes", ""])
def test_name_of_no_codec_of_the_package_is_one_line(
    study: TinyStudy, tmp_path: Path, name: str
) -> None:
    result = call(study, tmp_path, "--level", "4", "--init-from", f"builtin:{name}")
    assert f"training.init_from builtin:{name}: no such codec of level 4" in error_of(result)
