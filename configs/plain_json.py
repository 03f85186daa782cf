"""JSON that others wrote, read in one place: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any


def parse_json(content: str | bytes) -> Any:
    """Return what JSON text says; ValueError if it is none, or nested too deeply to be read."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_finite(value: object) -> bool:
    """Say whether a value is a number, neither true nor false, that is finite as a float."""
    try:
        return type(value) in (int, float) and isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond all floats
        return False
