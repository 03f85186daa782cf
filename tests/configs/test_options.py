"""A command's mistakes are one line each; a lack of memory says what needs less."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from configs.options import run_command


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
