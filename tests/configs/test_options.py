"""A command's mistakes are one line each, and so is its end when the system asks it to stop."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pytest
from click.testing import CliRunner

import analyze.cli
import analyze.streams_cli
import extract.cli
import extract.detector_cli
import train.cli
from configs.options import run_command


def terminated(scratch: Path) -> click.Command:
    """A command to which SIGTERM comes while it has a temporary folder."""

    @click.command()
    @run_command
    def command() -> None:
        with TemporaryDirectory(dir=scratch):
            assert len(list(scratch.iterdir())) == 1
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal came too late")

    return command


def test_sigterm_removes_what_is_temporary_and_is_told_in_one_line(tmp_path: Path) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    result = CliRunner().invoke(terminated(tmp_path))
    assert result.exit_code == 128 + signal.SIGTERM
    assert result.output == "Error: stopped by SIGTERM: the same command goes on from there\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_handler_of_a_program_that_calls_a_command_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        result = CliRunner().invoke(terminated(tmp_path))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert isinstance(result.exception, AssertionError)
    assert received == [signal.SIGTERM]


def test_command_runs_in_a_thread_that_may_not_handle_signals() -> None:
    @click.command()
    @run_command
    def command() -> None:
        click.echo("done")

    outputs = []
    thread = threading.Thread(target=lambda: outputs.append(CliRunner().invoke(command).output))
    thread.start()
    thread.join()
    assert outputs == ["done\n"]


@pytest.mark.parametrize(
    "command",
    [
        extract.cli.extract_features, extract.detector_cli.train_detector, train.cli.train_level,
        analyze.cli.analyze_levels, analyze.streams_cli.compress_features,
        analyze.streams_cli.decompress_features,
    ],
)  # fmt: skip
def test_every_command_is_one_that_ends_in_order(command: click.Command) -> None:
    assert command.callback is not None
    wrapper = run_command(lambda: None).__code__  # type: ignore[arg-type, attr-defined]
    assert command.callback.__code__ is wrapper  # type: ignore[attr-defined]


def failing(error: BaseException) -> click.Command:
    @click.command()
    @run_command
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "MemoryError"),
        (
            RuntimeError("CUDA out of memory. Tried 2 GiB.\nmore"),
            "CUDA out of memory. Tried 2 GiB.",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "can't allocate memory"),
    ],
)
def test_lack_of_memory_in_any_command_is_one_line_that_says_what_needs_less(
    error: BaseException, told: str
) -> None:
    result = CliRunner().invoke(failing(error))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: out of memory: ")
    assert "OMP_NUM_THREADS=1" in result.stderr
    assert result.stderr.endswith(f"{told}\n")
    assert result.stderr.count("\n") == 1


def test_another_error_keeps_its_traceback() -> None:
    error = RuntimeError("sizes must match")
    assert CliRunner().invoke(failing(error)).exception is error
