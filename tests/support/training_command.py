"""train-level in the tests' process, and what it has trained."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from tests.support.tiny_study import TinyStudy
from tests.support.training_process import options_of
from train.cli import train_level
from train.runs.run_folder import find_runs


def call(study: TinyStudy, out: Path, *options: str) -> Result:
    return CliRunner().invoke(
        train_level, options_of(study, out, "--log-level", "warning", *options)
    )


def pairs_of(out: Path) -> list[tuple[int, float]]:
    return sorted((run.level, run.lmbda) for run in find_runs(out))
