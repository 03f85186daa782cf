"""A report's folder belongs to one analysis at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyze.report.report_folder import alone_in
from configs.errors import ConfigError


def test_second_analysis_into_one_report_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "mine"
    with alone_in(folder):
        message = f"{folder}: another analysis writes its report here"
        with pytest.raises(ConfigError, match=message), alone_in(folder):
            raise AssertionError("two analyses write one report")
        (folder / "index.html").write_text("whole")
    assert [path.name for path in folder.iterdir()] == ["index.html"]
    with alone_in(folder):
        pass


def test_analysis_that_writes_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), alone_in(tmp_path / "mine"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_locked_is_left_to_who_writes_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with alone_in(tmp_path / "file" / "mine"):
        pass
