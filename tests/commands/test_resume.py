"""Killed or stopped at any moment, a training goes on as if nothing had happened."""

from __future__ import annotations

import itertools
import logging
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from configs.config_files import dump_config, load_config
from configs.errors import ConfigError
from data.cache.manifest import Manifest
from data.reading.level_stream import Batch
from data.reading.whole_maps import whole_map_batches
from tests.support.tiny_study import (
    TinyStudy,
    extract_tiny,
    save_detector,
    tiny_config,
    with_detector,
)
from tests.support.torch_cores import cores
from tests.support.training_process import (
    differences,
    options_of,
    rows_without_times,
    start_training,
    training_state,
    wait_for,
)
from train.cli import train_level
from train.loop import validation
from train.loop.epoch_end import EpochEnd
from train.loop.steps import Step
from train.runs.checkpoint import LAST_NAME, PREVIOUS_NAME, load_codec, load_last
from train.runs.run_folder import find_runs, locked
from train.runs.run_record import RunRecord

# Batches of one give six steps an epoch; the schedule and early stopping have a state to lose.
# There are so many epochs that no run ends before what is to happen in its middle has happened.
SETTINGS = (
    "--level", "1", "--batch-size", "1", "--epochs", "20", "--log-level", "info",
    "--set", "training.lr_schedule.patience=0", "--set", "training.learning_rate=0.01",
    "--set", "training.early_stopping.patience=100", "--set", "training.input_noise=0.1",
)  # fmt: skip
SAVE_ALWAYS = ("--set", "training.save_interval_s=0")
NUM_KILLS = 6


def call(study: TinyStudy, out: Path, *options: str) -> Result:
    return CliRunner().invoke(
        train_level, options_of(study, out, "--log-level", "warning", *options)
    )


def begin(study: TinyStudy, out: Path, *options: str) -> None:
    """Let a training begin, and stop it in its first step."""

    def stopping(step: Step, *arguments: Any) -> None:
        take(step, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    take = Step.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", stopping)
        result = call(study, out, *options)
    assert result.exit_code == 128 + signal.SIGTERM, result.output
    assert "stopped by SIGTERM in epoch " in result.output


def only_run(out: Path) -> Path:
    (folder,) = out.glob("*/run_*")
    return folder


@pytest.fixture(scope="module")
def uninterrupted(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed, trained in a process as the others are."""
    out = tmp_path_factory.mktemp("uninterrupted")
    process = start_training(options_of(study, out, *SETTINGS), out / "output")
    process.join()
    assert process.exitcode == 0, (out / "output").read_text()
    return only_run(out)


def saved_since(out: Path, moment: float) -> Callable[[], bool]:
    def is_saved() -> bool:
        # While the next one takes its place, the one before has another name.
        with suppress(FileNotFoundError):
            return any(p.stat().st_mtime > moment for p in out.glob(f"*/run_*/{LAST_NAME}"))
        return False

    return is_saved


def must_equal(run: Path, uninterrupted: Path) -> None:
    """Every bit of the state is the same, and so are the metrics and the best model."""
    states = [training_state(folder / LAST_NAME) for folder in (run, uninterrupted)]
    for state in states:
        del state["config"]  # how often is saved may differ
    assert differences(*states) == []
    assert rows_without_times(run) == rows_without_times(uninterrupted)
    best = [load_codec(folder / "best_model.pth")[1] for folder in (run, uninterrupted)]
    assert best[0].model_sha256 == best[1].model_sha256
    assert best[0].epoch == best[1].epoch


def test_a_run_is_the_same_run_whether_a_gpu_records_its_steps_or_not(
    study: TinyStudy, uninterrupted: Path
) -> None:
    out = uninterrupted.parents[1]
    result = call(study, out, *SETTINGS, "--set", "training.cuda_graphs=false")
    assert result.exit_code == 0, result.output
    assert only_run(out) == uninterrupted  # and no second one


def test_run_killed_again_and_again_ends_with_the_same_bits(
    study: TinyStudy, uninterrupted: Path, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the moments: {seed}")  # shown when the test fails
    rng = random.Random(seed)
    out, output = tmp_path / "runs", tmp_path / "output"
    kills = 0
    while kills < NUM_KILLS:
        process = start_training(options_of(study, out, *SETTINGS, *SAVE_ALWAYS), output)
        wait_for(process, saved_since(out, time.time()))
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0), output.read_text()
        if process.exitcode == 0:
            break
        kills += 1
    assert kills >= 2
    process = start_training(options_of(study, out, *SETTINGS, *SAVE_ALWAYS), output)
    process.join()
    assert process.exitcode == 0, output.read_text()
    run = only_run(out)
    must_equal(run, uninterrupted)
    assert not list(run.glob("*.new")) + list(run.glob("*.part")) + list(run.glob("*.lock"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_in_the_middle_of_an_epoch_and_the_same_command_goes_on(
    study: TinyStudy, uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out, output = tmp_path / "runs", tmp_path / "output"
    # Checkpoints at the end only: what is there after the signal, the signal has written.
    options = options_of(study, out, *SETTINGS)
    process = start_training(options, output)
    wait_for(process, lambda: output.exists() and "epoch 2:" in output.read_text())
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    said = output.read_text()
    assert process.exitcode == 128 + number, said
    last = said.splitlines()[-1]
    assert last.startswith(f"Error: stopped by {number.name} in epoch ")
    assert last.endswith("the same command goes on from there")
    progress = training_state(only_run(out) / LAST_NAME)["training_state"]["progress"]
    assert f"in epoch {progress['epoch']}, after step {progress['step']};" in last
    process = start_training(options, output)
    process.join()
    assert process.exitcode == 0, output.read_text()
    assert f"going on in epoch {progress['epoch']}, after step" in output.read_text()
    must_equal(only_run(out), uninterrupted)


def test_signal_in_a_validation_is_heard_there_and_the_run_goes_on_to_the_same_bits(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--level", "1", "--epochs", "3", "--batch-size", "1")
    assert call(study, tmp_path / "whole", *options).exit_code == 0
    num_val = len(Manifest.load(study.root / "val").samples)
    stopped_at, calls = 2 * num_val + 2, []  # in the third validation, of an image a batch

    def batches(*arguments: Any) -> Iterator[Batch]:
        for batch in whole_map_batches(*arguments):
            calls.append(batch)
            if len(calls) == stopped_at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(validation, "whole_map_batches", batches)
    result = call(study, tmp_path / "stopped", *options)
    assert result.exit_code == 128 + signal.SIGTERM, result.output
    assert "stopped by SIGTERM in epoch 3, after step 6; saved in" in result.output
    assert len(calls) == stopped_at
    run = only_run(tmp_path / "stopped")
    assert [row["epoch"] for row in rows_without_times(run)] == ["1", "2"]
    result = call(study, tmp_path / "stopped", *options)
    assert result.exit_code == 0, result.output
    assert len(calls) == stopped_at + num_val  # no validation twice
    must_equal(run, only_run(tmp_path / "whole"))


@pytest.mark.parametrize(
    "settings",
    [
        ("training.distortion=object_weighted", "training.detection_loss.from_epoch=2"),
        (
            "training.distortion=detector",
            "training.cutmix=0.5",
            "training.input_noise=1",
            "training.shuffle=shards",
        ),
    ],
)
def test_run_stopped_between_two_steps_goes_on_to_the_same_bits_whatever_draws_random_numbers(
    study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    chosen = [option for setting in settings for option in ("--set", setting)]
    options = ("--level", "2", "--epochs", "3", "--batch-size", "2", *chosen)
    assert call(study, tmp_path / "whole", *options).exit_code == 0
    steps = itertools.count(1)

    def stopping(step: Step, *arguments: Any) -> None:
        take(step, *arguments)
        if next(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    take = Step.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", stopping)
        result = call(study, tmp_path / "stopped", *options)
    assert "stopped by SIGTERM in epoch 2, after step 2; saved in" in result.output
    assert call(study, tmp_path / "stopped", *options).exit_code == 0
    must_equal(only_run(tmp_path / "stopped"), only_run(tmp_path / "whole"))


@pytest.fixture
def finished(study: TinyStudy, uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of a finished run that may be damaged."""
    out = tmp_path / "runs"
    shutil.copytree(uninterrupted.parents[1], out)
    return only_run(out)


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


SHORT = (
    "--level", "4", "--set", "training.lr_schedule.patience=0", "--set", "validation.interval=2",
    "--set", "training.learning_rate=0.01", "--set", "training.early_stopping.patience=3",
)  # fmt: skip


@pytest.mark.parametrize("schedule", ["training.seed=0", "training.lr_schedule.enabled=false"])
def test_finished_run_that_gets_more_epochs_is_what_they_make_from_the_start(
    study: TinyStudy, tmp_path: Path, schedule: str
) -> None:
    """Both ways, and through a validation that only its end asked for."""
    options = (*SHORT, "--set", schedule, "--epochs")
    assert call(study, tmp_path / "whole", *options, "7").exit_code == 0
    whole, out = only_run(tmp_path / "whole"), tmp_path / "runs"
    assert call(study, out, *options, "3").exit_code == 0
    first = only_run(out)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert call(study, out, *options, "7").exit_code == 0
    (copy,) = set(first.parent.iterdir()) - {first}
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert call(study, out, *options, "3").stdout.endswith(f"{first} (finished before)\n")
    assert call(study, out, *options, "7").stdout.endswith(f"{copy} (finished before)\n")
    assert call(study, out, "--resume", str(first), "--epochs", "7").exit_code == 0
    for run in (copy, first):
        record = RunRecord.load(run)
        assert record.continued == [{"run": str(first), "epochs": 3}]
        assert (record.epochs, record.finished) == (7, "all epochs done")
        states = [training_state(folder / LAST_NAME) for folder in (run, whole)]
        for state in states:
            # The third epoch was validated, and may be the best.
            for name in ("best", "best_loss", "num_samples"):
                del state["training_state"]["progress"][name]
            del state["config"], state["best_validation_loss"]
        assert differences(*states) == []
        rows = [rows_without_times(folder) for folder in (run, whole)]
        rows[0][2].update(val_loss="", val_mse="", val_bpp="")
        assert rows[0] == rows[1]
        assert "Epochs Run: 7" in (run / "training_summary.txt").read_text()


def test_cosine_goes_on_only_if_named_and_as_the_new_number_of_epochs_has_it(
    study: TinyStudy, tmp_path: Path
) -> None:
    options = ("--level", "4", "--set", "training.lr_schedule.name=cosine", "--epochs")
    assert call(study, tmp_path, *options, "2").exit_code == 0
    first = only_run(tmp_path)
    result = call(study, tmp_path, "--resume", str(first), "--epochs", "4")
    assert result.exit_code == 0, result.output
    said = (
        "the cosine goes on as it is over 4 epochs, at a learning rate of 5.00e-04: the run is not"
    )
    assert said in result.stderr
    assert call(study, tmp_path, *options, "4").exit_code == 0
    (whole,) = set(first.parent.iterdir()) - {first}  # the other one is none of four epochs
    rates = [[row["learning_rate"] for row in rows_without_times(run)] for run in (first, whole)]
    assert rates[0][:2] != rates[1][:2]
    assert rates[0][2:] == rates[1][2:]


def test_run_that_was_stopped_early_ends_there_with_any_number_of_epochs(
    study: TinyStudy, tmp_path: Path
) -> None:
    stopping = "training.early_stopping={patience: 1, min_delta: 100.0}"
    options = ("--level", "4", "--set", stopping, "--epochs")
    assert call(study, tmp_path, *options, "9").exit_code == 0
    run = only_run(tmp_path)
    assert call(study, tmp_path, *options, "20").stdout.endswith(f"{run} (finished before)\n")
    result = call(study, tmp_path, "--resume", str(run), "--epochs", "20")
    assert result.exit_code == 0, result.output
    assert "early stopping has ended it (no progress in 1 validations)" in result.stderr
    assert len(rows_without_times(run)) == 2


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


def test_run_stopped_before_its_summary_is_not_finished(
    study: TinyStudy, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(end: EpochEnd) -> None:
        raise KeyboardInterrupt

    summary = finished / "training_summary.txt"
    summary.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(EpochEnd, "summarise", die)
        assert call(study, finished.parents[1], "--resume", str(finished)).exit_code == 1
    assert RunRecord.load(finished).finished is None
    assert call(study, finished.parents[1], *SETTINGS).exit_code == 0
    assert "Stopped Because: " in summary.read_text()
    assert RunRecord.load(finished).finished is not None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_last_checkpoint_falls_back_to_the_one_before(
    finished: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    last = finished / LAST_NAME
    shutil.copy(last, finished / PREVIOUS_NAME)
    content = bytearray(last.read_bytes())
    if damage == "missing":
        last.unlink()
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        last.write_bytes(content)
    else:
        last.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        assert load_last(finished) is not None
    expected = "" if damage == "missing" else f"{last}: damaged"
    assert caplog.text.count("going on from previous_model.pth, which is older") == bool(expected)
    assert expected in caplog.text


def test_two_damaged_checkpoints_are_one_clear_line(study: TinyStudy, finished: Path) -> None:
    for name in (LAST_NAME, PREVIOUS_NAME):
        (finished / name).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"damaged .* start the run anew with --resume never$"):
        load_last(finished)


def test_flipped_byte_of_a_checkpoint_is_never_a_weight(finished: Path) -> None:
    path = finished / "best_model.pth"
    content = path.read_bytes()
    rng = random.Random(4)
    for position in [0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(30))]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="not a checkpoint of train-level, or damaged"):
            load_codec(path)


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


def test_run_that_another_process_trains_is_left_alone(
    study: TinyStudy, uninterrupted: Path, tmp_path: Path
) -> None:
    out, output = tmp_path / "runs", tmp_path / "output"
    options = (*SETTINGS, *SAVE_ALWAYS, "--epochs", "1000")
    process = start_training(options_of(study, out, *options), output)
    wait_for(process, lambda: any(out.glob(f"*/run_*/{LAST_NAME}")))
    result = call(study, out, *options)
    process.kill()
    process.join()
    assert result.exit_code == 1, result.output
    assert "another process trains this run: wait for it" in result.stderr
    # The lock has died with the process.
    begin(study, out, *options)
    assert only_run(out).is_dir()


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
