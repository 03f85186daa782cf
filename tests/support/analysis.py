"""Run the real analyze-levels on the tiny study, fully drawn or not, and read its table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from analyze.cli import analyze_levels
from analyze.plots import curve_plots, figures, pictures
from analyze.plots.figures import Plot
from analyze.request import AnalysisRequest
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


def request_of(study: TinyStudy, checkpoints: Path, **more: Any) -> AnalysisRequest:
    """What the command asks for."""
    return AnalysisRequest(
        cache=study.val_cache, split="val", config=study.config, checkpoints=checkpoints, **more
    )


def rows_of(report: Path) -> list[dict[str, str]]:
    with (report / "levels.csv").open() as file:
        return list(csv.DictReader(file))


@contextmanager
def each_kind_drawn_once() -> Iterator[None]:
    """Give all pictures of a kind the bytes of the first: drawing is half of a tiny analysis."""
    draw_really, drawn = figures.draw_plot, {}

    def draw_plot(name: str, title: str, draw: partial[None], **more: Any) -> Plot:
        kind = draw.args[0] if callable(draw.args[0]) else draw.func
        if kind not in drawn:
            drawn[kind] = draw_really(name, title, draw, **more)
        return replace(drawn[kind], name=name, title=title)

    with pytest.MonkeyPatch.context() as patched:
        for module in (curve_plots, figures, pictures):
            patched.setattr(module, "draw_plot", draw_plot)
        yield
