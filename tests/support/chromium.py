"""Pages in headless Chromium: what its console says, and how they look."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
# Where browser tests are wanted (continuous integration), a machine without one fails them.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and "FPN_BROWSER_TESTS" not in os.environ, reason="Chromium is not installed"
)
_CONSOLE = re.compile(r'INFO:CONSOLE[^"]*"(.*)"')


def screenshot(
    page: Path, picture: Path, width: int, height: int, *, dark: bool = False
) -> list[str]:
    """Open a local page, write its picture as PNG, and return the lines of its console."""
    assert CHROMIUM is not None, "FPN_BROWSER_TESTS is set, and there is no Chromium"
    profile = picture.with_suffix(".profile")
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            f"--window-size={width},{height}", f"--screenshot={picture}", page.resolve().as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    shutil.rmtree(profile, ignore_errors=True)
    return _CONSOLE.findall(done.stderr)
