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

from configs.errors import ConfigError
from data.cache.manifest import Manifest
from data.reading.level_stream import Batch
from data.reading.whole_maps import whole_map_batches
from tests.support.resumed_runs import SAVE_ALWAYS, SETTINGS, begin, must_equal, only_run
from tests.support.tiny_study import TinyStudy
from tests.support.training_command import call
from tests.support.training_process import (
    options_of,
    rows_without_times,
    start_training,
    training_state,
    wait_for,
)
from train.loop import validation
from train.loop.epoch_end import EpochEnd
from train.loop.steps import Step
from train.runs.checkpoint import LAST_NAME, PREVIOUS_NAME, load_codec, load_last
from train.runs.run_record import RunRecord

NUM_KILLS = 6


def saved_since(out: Path, moment: float) -> Callable[[], bool]:
    def is_saved() -> bool:
        # While the next one takes its place, the one before has another name.
        with suppress(FileNotFoundError):
            return any(p.stat().st_mtime > moment for p in out.glob(f"*/run_*/{LAST_NAME}"))
        return False

    return is_saved


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
