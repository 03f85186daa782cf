"""The nearest valid name, for messages about one that is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ``: did you mean 'x'?``, or nothing if no valid name is near."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f": did you mean '{near[0]}'?" if near else ""
