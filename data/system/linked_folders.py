"""Walk a folder as its user sees it: linked subfolders are entered, loops of links are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_OF_THE_SYSTEM = "lost+found"  # at the root of a disk, and for nobody else to read


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all that lies below a folder and is no folder, in no fixed order.

    Subfolders that are links are entered (`find -L`), but for those that hold themselves: where a
    folder is one of its own ancestors again. Links that lead nowhere are yielded like files. Raises
    OSError if a folder cannot be read: what it holds must not be missing without a word.
    """
    yield from _below(folder, (_identity(folder),))


def _below(folder: Path, ancestors: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if not (path.is_dir() if entry.is_symlink() else entry.is_dir()):
                yield path
            elif entry.name != _OF_THE_SYSTEM and (identity := _identity(path)) not in ancestors:
                yield from _below(path, (*ancestors, identity))


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino
