"""One report of everything that takes no video coder, which many tests read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.analysis import analyse, each_kind_drawn_once
from tests.support.openings import openings
from tests.support.tiny_study import TinyStudy


@dataclass(frozen=True)
class Reported:
    """A report of everything that takes no video coder, and what was printed."""

    folder: Path
    kept: Path
    output: str
    opened: Counter[Path]


@pytest.fixture(scope="module")
def reported(
    study: TinyStudy, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Reported:
    parent = tmp_path_factory.mktemp("reports")
    with openings() as counted, each_kind_drawn_once():
        result = analyse(
            study, checkpoints, parent / "report", "--kept", str(parent / "kept"),
            "--anchors", "uniform,float16", "--matrix", "--sensitivity", "--suggest-lambda",
            "--target-bpp", "1000", "--cross-fit", "3", "--per-image",
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    return Reported(
        folder=parent / "report", kept=parent / "kept", output=result.output, opened=counted
    )
