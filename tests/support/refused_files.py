"""Files that the system refuses to open."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def refuse_to_open(
    patched: pytest.MonkeyPatch, number: int, is_refused: Callable[[Path, str], bool]
) -> None:
    """Have opening fail with an error of that number, where path and mode are to be refused."""
    opened = io.open

    def open_if_allowed(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if not isinstance(file, int) and is_refused(Path(file), mode):
            raise OSError(number, os.strerror(number), str(file))
        return opened(file, mode, *rest, **more)

    patched.setattr(io, "open", open_if_allowed)
    # Before Python 3.11 pathlib keeps the one that there was when it was imported.
    accessor = getattr(pathlib, "_NormalAccessor", None)
    if accessor is not None:
        patched.setattr(accessor, "open", staticmethod(open_if_allowed))
