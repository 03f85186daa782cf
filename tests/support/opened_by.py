"""Files that are opened by a function of the test's."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Callable
from typing import Any

import pytest


def open_by(patched: pytest.MonkeyPatch, function: Callable[..., Any]) -> None:
    """Have `io.open` replaced, and what pathlib opens by."""
    patched.setattr(io, "open", function)
    # Before Python 3.11 pathlib keeps the one that there was when it was imported.
    accessor = getattr(pathlib, "_NormalAccessor", None)
    if accessor is not None:
        patched.setattr(accessor, "open", staticmethod(function))
