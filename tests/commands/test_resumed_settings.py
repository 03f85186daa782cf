"""A run goes on with its own settings, cache and threads, and is told apart from others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from configs.config_files import dump_config, load_config
from tests.support.resumed_runs import SETTINGS, begin, only_run
from tests.support.tiny_study import (
    TinyStudy,
    extract_tiny,
    save_detector,
    tiny_config,
    with_detector,
)
from tests.support.torch_cores import cores
from tests.support.training_command import call
from tests.support.training_process import rows_without_times
from train.cli import train_level
from train.loop.epoch_end import EpochEnd
from train.runs.checkpoint import LAST_NAME
from train.runs.run_folder import find_runs, locked
from train.runs.run_record import RunRecord


def test_a_run_is_the_same_run_whether_a_gpu_records_its_steps_or_not(
    study: TinyStudy, uninterrupted: Path
) -> None:
    out = uninterrupted.parents[1]
    result = call(study, out, *SETTINGS, "--set", "training.cuda_graphs=false")
    assert result.exit_code == 0, result.output
    assert only_run(out) == uninterrupted  # and no second one


def test_finished_run_is_not_trained_again(study: TinyStudy, finished: Path) -> None:
    before = (finished / LAST_NAME).read_bytes()
    result = call(study, finished.parents[1], *SETTINGS)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"level 1, lambda 0.001 -> {finished} (finished before)\n"
    assert (finished / LAST_NAME).read_bytes() == before
    begin(study, finished.parents[1], *SETTINGS, "--resume", "never")
    assert len(list(finished.parent.iterdir())) == 2


def test_other_settings_are_another_run(study: TinyStudy, finished: Path) -> None:
    begin(study, finished.parents[1], *SETTINGS, "--set", "training.seed=1")
    seeds = {run: load_config(str(run / "config.yaml")).training.seed
             for run in finished.parent.iterdir()}  # fmt: skip
    assert seeds.pop(finished) == 0
    assert list(seeds.values()) == [1]


def test_named_run_goes_on_for_more_epochs_with_its_own_settings(
    study: TinyStudy, finished: Path
) -> None:
    result = call(study, finished.parents[1], "--resume", str(finished), "--epochs", "22")
    assert result.exit_code == 0, result.output
    rows = rows_without_times(finished)
    assert [row["epoch"] for row in rows] == [str(n) for n in range(1, 23)]
    record = RunRecord.load(finished)
    assert (record.epochs, record.finished) == (22, "all epochs done")
    (run,) = find_runs(finished.parents[1])
    assert (run.config.training.epochs, run.config.training.batch_size) == (22, 1)


def test_run_that_goes_on_has_the_threads_of_before_and_leaves_the_next_its_own(
    study: TinyStudy, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr("configs.cores._is_ours", True)
    monkeypatch.setattr(EpochEnd, "summarise", lambda end: seen.append(torch.get_num_threads()))
    with cores(2):
        options = ("--resume", str(finished), "--epochs", "21")
        assert call(study, finished.parents[1], *options).exit_code == 0
        assert torch.get_num_threads() == 2
    assert seen == [RunRecord.load(finished).num_threads] == [1]


def test_run_in_use_keeps_its_settings(study: TinyStudy, finished: Path) -> None:
    before = (finished / "config.yaml").read_bytes()
    with locked(finished):
        result = call(study, finished.parents[1], "--resume", str(finished), "--epochs", "22")
    assert "another process trains this run" in result.stderr
    assert (finished / "config.yaml").read_bytes() == before


def test_run_of_another_cache_is_not_gone_on_with(
    study: TinyStudy, finished: Path, tmp_path: Path
) -> None:
    config = with_detector(tiny_config(), save_detector(tmp_path / "other.pth", seed=1))
    extract_tiny(tmp_path / "features", config, ("train", "val"))
    config_file = tmp_path / "other.yaml"
    config_file.write_text(dump_config(config), encoding="utf-8")
    options = ["--config", str(config_file), "--features", str(tmp_path / "features")]
    result = CliRunner().invoke(
        train_level, [*options, "--resume", str(finished), "--log-level", "warning"]
    )
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {finished}: was trained on another train cache (")
    assert result.stderr.count("\n") == 1


def resume(run: Path, study: TinyStudy, *options: str) -> Result:
    """Go on with a run without saying what its configuration was."""
    arguments = ["--resume", run, "--features", study.root, "--device", "cpu", *options]
    return CliRunner().invoke(train_level, [str(each) for each in arguments])


@pytest.mark.parametrize(
    "same",
    [(), ("--set", "training.learning_rate=0.01"), ("--batch-size", "1"), ("--epochs", "20")],
    ids=str,
)
def test_run_goes_on_by_its_own_configuration(
    study: TinyStudy, finished: Path, same: tuple[str, ...]
) -> None:
    result = resume(finished, study, *same)
    assert result.exit_code == 0, result.output
    assert f"level 1, lambda 0.001 -> {finished}" in result.output


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (("--batch-size", "3"), "training.batch_size is 1 there, 3 now"),
        (("--set", "model.stages=2"), "model.stages is 4 there, 2 now"),
        (("--set", "training.lambda=0.5"), "training.lambda is 0.001 there, 0.5 now"),
        (("--warm-start",), "training.warm_start is False there, True now"),
        (("--set", "validation.interval=9"), "validation.interval is 1 there, 9 now"),
    ],
)
def test_setting_that_is_not_the_run_s_own_is_named_and_nothing_else_advised(
    study: TinyStudy, finished: Path, other: tuple[str, ...], difference: str
) -> None:
    line = resume(finished, study, *other).stderr.splitlines()[-1]
    assert line == (
        f"Error: --resume {finished}: a run goes on with its own settings ({difference}): "
        "leave that out, or start another run with --resume never"
    )


def test_run_whose_cache_was_made_otherwise_is_told_so_and_no_cache_is_to_be_replaced(
    study: TinyStudy, finished: Path
) -> None:
    for options in (("--set", "detector.min_size=64"), ("--config", "kitti")):
        result = resume(finished, study, *options)
        assert result.exit_code == 1
        assert "was not made with these settings (" in result.stderr
        assert "--overwrite" not in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume", "nowhere"), "no such folder: use auto, never or a run folder"),
        (("--resume", "RUN", "--level", "0"), "is a run of level 1, lambda 0.001: leave out"),
        (
            ("--resume", "RUN", "--epochs", "19"),
            "has 20 epochs behind it: --epochs 19 would be fewer",
        ),
        (("--resume", "RUN", "--lambda", "3"), "is a run of level 1, lambda 0.001: leave out"),
        ((), "--level: say which: 0 to 4, all, random, or fused"),
    ],
)
def test_wrong_use_of_resume_is_one_line(
    study: TinyStudy, finished: Path, options: tuple[str, ...], message: str
) -> None:
    named = [str(finished) if option == "RUN" else option for option in options]
    result = call(study, finished.parents[1], *named)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
