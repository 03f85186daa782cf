"""Links are followed below a folder, and loops of them are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data.system.linked_folders import files_below


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in files_below(folder))


def test_loops_of_links_end_and_each_file_is_found(tmp_path: Path) -> None:
    for name in ("a", "b", "lost+found"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "a/b").symlink_to("../b")
    (tmp_path / "b/a").symlink_to("../a")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "itself").symlink_to("itself")
    assert names_below(tmp_path) == [
        "a/b/file", "a/file", "b/a/file", "b/file", "itself", "nowhere",
    ]  # fmt: skip


def test_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    usual = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="closed"):
        names_below(tmp_path)
