"""An analysis on a cluster of two nodes: its report is that of an analysis in one process."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.support.analysis import analyse
from tests.support.own_anchor import write_anchor
from tests.support.tiny_study import TinyStudy

pytest.importorskip("ray", reason="needs ray")


def measured_here(*_: Any, **__: Any) -> None:
    raise AssertionError("measured by the command, and not on the cluster")


def tables_of(report: Path) -> dict[str, list[dict[str, str]]]:
    """Every table of a report without the columns of time."""
    tables = {}
    for path in sorted(report.glob("*.csv")):
        with path.open(newline="") as file:
            tables[path.name] = [
                {key: value for key, value in row.items() if not key.endswith("_ms")}
                for row in csv.DictReader(file)
            ]
    return tables


@pytest.mark.usefixtures("undrawn")
def test_report_of_a_cluster_is_that_of_one_process_and_nothing_is_measured_twice(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, ray_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    own = write_anchor(tmp_path / "anchor_on_ray.py")
    monkeypatch.chdir(tmp_path)
    common = ("--anchors", f"float16,{own}", "--limit", "1", "--target-mse", "1")
    alone = analyse(study, checkpoints, tmp_path / "one" / "report", *common)
    assert alone.exit_code == 0, alone.output
    for what in (
        "analyze.measure.level_rate_distortion.measure_level",
        "analyze.anchors.anchor_study._measure_point",
    ):
        monkeypatch.setattr(what, measured_here)
    result = analyse(
        study, checkpoints, tmp_path / "ray" / "report", *common, "--ray", ray_address,
        "--ray-cpus", "2", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "is measured here instead" not in result.output
    expected = tables_of(tmp_path / "one" / "report")
    assert len(expected) > 3
    assert tables_of(tmp_path / "ray" / "report") == expected
