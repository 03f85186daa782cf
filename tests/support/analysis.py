"""Run the real analyze-levels on the tiny study, and read its table of levels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from click.testing import CliRunner, Result

from analyze.cli import analyze_levels
from tests.support.tiny_study import TinyStudy


def analyse(
    study: TinyStudy, checkpoints: Path, report: Path, *more: str, features: Path | None = None
) -> Result:
    arguments: Sequence[str] = (
        "--config", str(study.config_file), "--features", str(features or study.root),
        "--checkpoints", str(checkpoints), "--report", str(report),
        "--kept", str(report.parent / "kept"), "--anchors", "none", *more,
    )  # fmt: skip
    return CliRunner().invoke(analyze_levels, list(arguments))


def rows_of(report: Path) -> list[dict[str, str]]:
    with (report / "levels.csv").open() as file:
        return list(csv.DictReader(file))
