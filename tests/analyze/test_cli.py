"""What the command analyze-levels says of the machine."""

from __future__ import annotations

from analyze.cli import _version


def test_package_that_is_not_installed_is_told_as_such() -> None:
    assert _version("click")[0].isdigit()
    assert _version("no-such-package") == "not installed"
