"""An anchor of one's own stands in the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.analysis import analyse
from tests.support.own_anchor import write_anchor
from tests.support.tiny_study import TinyStudy


@pytest.mark.usefixtures("undrawn")
def test_anchor_of_ones_own_stands_in_the_report_by_its_name(
    study: TinyStudy, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = write_anchor(tmp_path / "own_reported.py")
    report = tmp_path / "report"
    result = analyse(study, checkpoints, report, "--anchors", f"{name},float16", "--limit", "1")
    assert result.exit_code == 0, result.output
    content = json.loads((report / "report.json").read_text())
    assert {each["anchor"] for each in content["anchors"]} == {name, "float16"}
    assert "whole numbers" in (report / "index.html").read_text()
