"""The user's cache folder is where the system's conventions have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.system.user_cache import user_cache


@pytest.mark.parametrize(
    ("platform", "named", "folder"),
    [
        ("linux", None, "/home/her/.cache"),
        ("linux", "/elsewhere", "/elsewhere"),
        ("darwin", None, "/home/her/Library/Caches"),
    ],
)
def test_folder_goes_by_platform_and_environment(
    platform: str, named: str | None, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/her"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if named is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert user_cache() == Path(folder)
