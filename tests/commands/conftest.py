"""A finished run that tests go on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.resumed_runs import SETTINGS, only_run
from tests.support.tiny_study import TinyStudy
from tests.support.training_process import options_of, start_training


@pytest.fixture(scope="session")
def uninterrupted(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed, trained in a process as the others are."""
    out = tmp_path_factory.mktemp("uninterrupted")
    process = start_training(options_of(study, out, *SETTINGS), out / "output")
    process.join()
    assert process.exitcode == 0, (out / "output").read_text()
    return only_run(out)


@pytest.fixture
def finished(study: TinyStudy, uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of a finished run that may be damaged."""
    out = tmp_path / "runs"
    shutil.copytree(uninterrupted.parents[1], out)
    return only_run(out)
