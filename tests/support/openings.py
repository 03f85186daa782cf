"""How often files are opened for reading while a block runs."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_COUNTED: list[Counter[Path]] = []
_HOOKED: list[bool] = []  # a hook cannot be taken back, so there is one, which idles


def _see(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _COUNTED or not isinstance(arguments[0], str):
        return
    path, mode, flags = arguments
    if flags & os.O_ACCMODE == os.O_RDONLY if mode is None else set(mode) <= set("rbt"):
        _COUNTED[-1][Path(path).resolve()] += 1


@contextmanager
def openings() -> Iterator[Counter[Path]]:
    """Within the block, count by path, in all threads of this process."""
    if not _HOOKED:
        sys.addaudithook(_see)
        _HOOKED.append(True)
    _COUNTED.append(Counter())
    try:
        yield _COUNTED[-1]
    finally:
        _COUNTED.pop()


def of_name(counted: Counter[Path], name: str) -> dict[Path, int]:
    """Return the folders of all files of this name, each with how often it was opened."""
    return {path.parent: number for path, number in counted.items() if path.name == name}
