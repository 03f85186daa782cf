from __future__ import annotations

import logging
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from configs import known_places
from configs.errors import CacheError, MachineError, UserError
from configs.known_places import call_it, told
from configs.log_setup import setup_logging
from configs.options import run_command


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for s3://lab/x."""
    monkeypatch.setattr(known_places, "_NAMES", {})
    call_it(tmp_path / "x", "s3://lab/x")
    return tmp_path / "x"


def test_folder_and_what_is_in_it_are_told_by_their_name_and_no_others(copy: Path) -> None:
    assert told(copy) == "s3://lab/x"
    assert told(f"{copy}/val: is damaged ({copy}).") == "s3://lab/x/val: is damaged (s3://lab/x)."
    beside = [f"{copy}-2/val", f"{copy}.old: x", f"{copy}2"]
    assert [told(line) for line in beside] == beside


def line_of(error: UserError, cause: Exception | None) -> str:
    @click.command()
    @run_command
    def command() -> None:
        raise error from cause

    return CliRunner().invoke(command).stderr


def test_error_of_a_cache_names_its_url_and_one_of_the_disk_its_file(copy: Path) -> None:
    damaged = CacheError(f"{copy}/val: sample 3 is damaged")
    assert line_of(damaged, None) == "Error: s3://lab/x/val: sample 3 is damaged\n"
    full = CacheError(f"{copy}/val/c.0: cannot be written")
    assert line_of(full, OSError(28, "full")) == f"Error: {copy}/val/c.0: cannot be written\n"
    assert line_of(MachineError(f"{copy}: full"), None) == f"Error: {copy}: full\n"


def test_logged_line_names_the_url(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        setup_logging("info")
        logging.getLogger("some").info("%s: 3 of 4 images are there", copy / "val")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert capfd.readouterr().err.endswith("INFO s3://lab/x/val: 3 of 4 images are there\n")
