"""Folders that stand for what lies elsewhere, by the names that the user knows.

Whoever works in such a folder names its files by their paths; what becomes a line for the user
names what they stand for. Lines about the disk itself keep the paths: there is something to mend.
"""

from __future__ import annotations

import re
from pathlib import Path

from configs.errors import CacheError, UserError

_NAMES: dict[str, str] = {}


def call_it(folder: Path, name: str) -> None:
    """Have this process's lines call a folder, and what is in it, by this name."""
    _NAMES[str(folder)] = name


def told(text: object) -> str:
    """Return a line with the names in the place of the folders' paths."""
    line = str(text)
    for folder, name in _NAMES.items():
        if folder in line:
            line = re.sub(rf"{re.escape(folder)}(?![\w.-])", name.replace("\\", r"\\"), line)
    return line


def line_of(error: UserError) -> str:
    """Return an error's line: of what a cache holds by the names, of what a disk refuses as is."""
    line = " ".join(str(error).split())
    about_disk = isinstance(error.__cause__, OSError)
    return told(line) if isinstance(error, CacheError) and not about_disk else line
