"""A cache to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.extraction import TinyCache


@pytest.fixture
def copied(tiny_cache: TinyCache, tmp_path: Path) -> TinyCache:
    """A cache that a test may damage."""
    folder = tmp_path / "train"
    shutil.copytree(tiny_cache.folder, folder)
    return TinyCache(folder=folder, container=tiny_cache.container, config=tiny_cache.config)
